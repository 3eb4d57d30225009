// One vector on its way up through the decoder: its length, what each sublayer adds, what each storey would answer.
const { storeys, climbs: words } = data, top = storeys.length - 1;
let word = words[0], step = 0, at = 0;
const climb = () => word.steps[step], here = () => climb()[at], said = () => word.said[step];
const best = (storey) => storey.top[0];
const shown = (p) => (p < 0.005 ? "<0.01" : p.toFixed(2));
const tile = (token) => el("span", { class: `tile ${token === said() ? "same" : "other"}` }, token);
const level = (p) => {
  const bar = el("span", { class: "level", "aria-hidden": "true" });
  bar.style.setProperty("--p", p);
  return bar;
};

// The house: a line for each storey, the highest first; a storey is empty until it is reached.
const house = el("table", { class: "house" });
const box = scroll({}, house);
const drawStorey = (storey, i) => {
  const [layer, name] = storeys[i], [answer, p] = best(storey);
  const floors = storeys.filter(([other]) => other === layer).length;
  const highest = i === top || storeys[i + 1][0] !== layer;          // it names its layer
  const seen = [tile(answer), [level(p), shown(p)], storey.length.toFixed(1)];
  return el("tr", { class: i === at ? "here" : null, "aria-current": i === at ? "step" : null },
    ...(layer && highest ? [el("th", { scope: "rowgroup", class: "floor", rowspan: floors }, layer)] : []),
    el("th", { scope: "row", colspan: layer ? 1 : 2 }, name),
    ...seen.map((inside) => el("td", null, ...(i > at ? [] : [inside].flat()))));
};
const drawHouse = () => {
  const heads = ["would answer", "probability", "length"].map((text) => el("th", { scope: "col" }, text));
  const name = `Storeys of ${word.name}, step ${step + 1}, the highest first`;
  box.setAttribute("aria-label", name);
  house.replaceChildren(el("caption", { class: "unseen" }, name),
    el("thead", null, el("tr", null, el("td", { colspan: 2 }), ...heads)),
    el("tbody", null, ...climb().map(drawStorey).reverse()));
};

// What was there, what is added, and their sum lie in one plane: a triangle of three lengths, true to scale.
const picture = el("svg:svg", { class: "sum", "aria-hidden": "true" }), lengths = el("p", { class: "lengths" });
const corner = ({ length, added }, i) => {                            // where the old vector ends; the sum lies flat
  const was = i ? climb()[i - 1].length : 0, x = (was ** 2 + length ** 2 - added ** 2) / (2 * length);
  return [x, Math.sqrt(Math.max(0, was ** 2 - x ** 2))];
};
const arrow = (kind, [x, y], [u, v], head) => {
  const far = Math.hypot(u - x, v - y) || 1, size = Math.min(head, far / 2), c = (u - x) / far, s = (v - y) / far;
  const barb = (side) => `L${u - size * (c - side * s * 0.6)} ${size * (s + side * c * 0.6) - v}M${u} ${-v}`;
  return el("svg:path", { class: kind, d: `M${x} ${-y}L${u} ${-v}${head ? barb(1) + barb(-1) : ""}` });
};
const drawSum = () => {
  const corners = climb().map(corner), [xs, ys] = [0, 1].map((i) => corners.map((place) => place[i]));
  const left = Math.min(0, ...xs), right = Math.max(...xs, ...climb().map(({ length }) => length));
  const high = Math.max(...ys), head = 0.03 * right, [zero, tip, end] = [[0, 0], corners[at], [here().length, 0]];
  picture.setAttribute("viewBox", `${left - head} ${-high - head} ${right - left + 2 * head} ${high + 2 * head}`);
  const adding = [arrow("was", zero, tip, 0), arrow("edge", tip, end, head), arrow("added", tip, end, head)];
  picture.replaceChildren(arrow("now", zero, end, head), ...(at ? adding : []));
  const key = (kind, text, length) => el("span", { class: `key ${kind}` }, `${text} ${length.toFixed(1)}`);
  lengths.replaceChildren(
    ...(at ? [key("was", "before", climb()[at - 1].length), key("added", "added", here().added)] : []),
    key("now", at ? "after" : "length", here().length));
};

const line = status(), before = el("p"), asked = el("p", { class: "asked" }), five = el("ol", { class: "five" });
const inWords = () => {
  const [answer, p] = best(here()), { length, added, last } = here(), storey = `Storey ${at + 1} of ${top + 1}`;
  const does = at ? `${storeys[at].join(", ")} adds a vector of length ${added.toFixed(1)}, and the sum is `
    : `the embedding of ${word.read[step]} with its position ${step} is `;
  const start = `${storey}: ${does}${length.toFixed(1)} long. `;
  if (at === top) return `${start}Here the model itself answers: ${answer}, probability ${shown(p)}.`;
  const other = answer === said() ? "" : `; ${said()}, which the model says in the end, has ${shown(last)}`;
  return `${start}It would answer ${answer}, probability ${shown(p)}${other}.`;
};
const redraw = () => {
  const read = word.read.slice(0, step + 1).map((token) => el("span", { class: "token" }, token));
  before.replaceChildren("read so far: ", ...read);
  asked.textContent = at ? `After ${storeys[at].join(", ")}` : "After the embedding";
  five.replaceChildren(...here().top.map(([token, p]) => el("li", null, tile(token), level(p), shown(p))));
  drawHouse();
  drawSum();
  line.textContent = inWords();
};

const walk = stepper("storey", (n) => { at = n; redraw(); });
const steps = choice("step", [], (i) => { step = i; redraw(); });
const listSteps = () => {
  steps.querySelector("select").replaceChildren(
    ...word.read.map((token, i) => el("option", null, `${i + 1}, after ${token}`)));
};
const names = words.map(({ name }) => name);
const chosen = choice("word", names, (i) => { [word, step] = [words[i], 0]; listSteps(); redraw(); });
const legend = el("p", { class: "legend" }, "A solid tile is the token that the model says in the end, a dotted one "
  + "is another. The arrows are true to scale: what was there, what is added, and their sum.");
const halves = el("div", { class: "halves" }, box, el("div", null, asked, five, picture, lengths));
stage.append(el("div", { class: "controls" }, chosen, steps), before, walk, halves, legend, line);
listSteps();
walk.reset(storeys.length);
