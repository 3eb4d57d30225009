let word = data.words[0], at = 0;
const ways = [{ key: "cached", title: "with a cache" }, { key: "naive", title: "without a cache" }];
const counts = [
  { key: "vectors", title: "queries, keys and values made" },
  { key: "products", title: "query–key products" },
  { key: "bytes", title: "bytes kept" },
];
const grouped = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
const sofar = (way, key, n = at) => key === "bytes"                  // what is kept stands there once, and is no sum
  ? word[way][n].bytes : word[way].slice(0, n + 1).reduce((sum, step) => sum + step[key], 0);
const line = status(), sides = el("div", { class: "sides" });
const sums = el("table", { class: "sums" });
const rows = scroll({ "aria-label": "What was counted" }, sums);

// A position's key or value: still to come, made at this step, or kept from one before.
const cell = (state) => el("td", { class: state },
  el("span", { "aria-hidden": "true" }, { made: "+", kept: "✓", later: "" }[state]),
  el("span", { class: "unseen" }, { made: "made now", kept: "kept", later: "not yet" }[state]));
const strip = (title, where, tokens, state) => [
  el("p", { class: "name" }, title),
  el("div", { class: "strip" },
    el("div", { class: "rows", "aria-hidden": "true" }, el("span", null, "key"), el("span", null, "value")),
    scroll({ "aria-label": `Keys and values ${title}, ${where}` },
      el("table", null,
        el("thead", null, el("tr", null, el("td", { class: "unseen" }),
          ...tokens.map((text) => el("th", { scope: "col" }, text)))),
        el("tbody", null, ...["key", "value"].map((name) => el("tr", null,
          el("th", { scope: "row", class: "unseen" }, name), ...tokens.map((_, i) => cell(state(i))))))))),
];

const side = ({ key, title }) => {
  const cached = key === "cached";
  const ofToken = (i) => i > at ? "later" : i < at && cached ? "kept" : "made";
  const ofMemory = () => at && cached ? "kept" : "made";
  const name = `${title}, step ${at + 1}`;
  return el("section", { "aria-label": name },
    el("p", { class: "title" }, title),
    ...strip("of the tokens read", name, word.read.map((text, i) => i > at ? "…" : text), ofToken),
    ...strip("of the memory", name, word.source, ofMemory));
};

const bar = (way, { key }) => {
  const most = Math.max(...ways.map((each) => sofar(each.key, key, word.read.length - 1)));
  const level = el("span", { class: "level", "aria-hidden": "true" });
  level.style.setProperty("--p", sofar(way.key, key) / most);
  return el("td", { class: way.key }, grouped(sofar(way.key, key)), level);
};

const sentence = () => {
  const [made, anew] = ways.map(({ key }) => word[key][at].vectors);
  const [little, much] = ways.map(({ key }) => sofar(key, "vectors"));
  const [few, many] = ways.map(({ key }) => sofar(key, "products"));
  return `Step ${at + 1} of ${word.read.length} reads ${word.read[at]}: ${grouped(made)} vectors are made with a `
    + `cache, ${grouped(anew)} without one. So far ${grouped(little)} and ${grouped(much)} vectors, `
    + `${grouped(few)} and ${grouped(many)} products; the cache keeps ${grouped(sofar("cached", "bytes"))} bytes.`;
};

const toNewest = () => {                                            // the newest token is in sight
  for (const box of sides.querySelectorAll("section > .strip:nth-of-type(1) > .scroll")) {
    box.scrollLeft = box.querySelectorAll("th[scope=col]")[at].offsetLeft - 0.7 * box.clientWidth;
  }
};
const draw = () => {
  sides.replaceChildren(...ways.map(side));
  toNewest();
  sums.replaceChildren(
    el("thead", null, el("tr", null, el("td", null, "so far"),
      ...ways.map(({ title }) => el("th", { scope: "col" }, title)))),
    el("tbody", null, ...counts.map((count) => el("tr", null,
      el("th", { scope: "row" }, count.title), ...ways.map((way) => bar(way, count))))));
  line.textContent = sentence();
};

const walk = stepper("step", (n) => { at = n; draw(); });
const begin = () => { walk.reset(word.read.length); walk.go(4); };
const words = choice("word", data.words.map(({ name }) => name), (i) => { word = data.words[i]; begin(); });
const legend = el("p", { class: "legend" }, "The keys and values of one layer: + and yellow are made at this step, "
  + `✓ are kept from a step before. The counts are of all ${data.layers} layers and ${data.heads} heads.`);
stage.append(el("div", { class: "controls" }, words), walk, sides, legend, rows, line);
begin();
requestAnimationFrame(toNewest);                                    // now it is on the page
