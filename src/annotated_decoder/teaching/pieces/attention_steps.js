let word = data.words[0], at = 0, each = false, guess = false;
const uncovered = new Set(), covered = () => guess && !uncovered.has(at);    // the steps of this word
const most = (row) => row.indexOf(Math.max(...row));
const mean = (rows) => rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
const average = (heads) => mean(heads.map((rows) => rows[at]));
const said = el("p", { class: "said" }), line = status();
const table = el("table"), box = scroll({}, table);

const cell = (weight, i, row) => el("td",
  { class: i === most(row) ? "most" : null, title: `${word.source[i]}: ${weight.toFixed(2)}` },
  el("span", { class: i === most(row) ? "number" : "unseen" }, weight.toFixed(2)),
  el("span", { class: "weight", "aria-hidden": "true", style: `--w:${weight}` }));
const cells = (row) => row.map(covered() ? () => el("td") : cell);
const layerRows = (heads, layer) => each
  ? heads.map((rows, head) => el("tr", null,
      ...(head ? [] : [el("th", { scope: "rowgroup", rowspan: heads.length }, `layer ${layer}`)]),
      el("th", { scope: "row" }, `head ${head}`), ...cells(rows[at])))
  : [el("tr", null, el("th", { scope: "row" }, `layer ${layer}`), ...cells(average(heads)))];

const inWords = () => {
  const before = [data.start, ...word.target.slice(0, at)].join(" ");
  const step = `Step ${at + 1} of ${word.target.length}: after ${before}`;
  const ask = `which token comes next, and which source token does each ${each ? "head" : "layer"} look at most?`;
  if (covered()) return `${step}, ${ask}`;
  const start = `${step} the model chooses ${word.target[at]}, probability ${word.probabilities[at].toFixed(2)}. `;
  const look = (row) => `${word.source[most(row)]}, weight ${row[most(row)].toFixed(2)}`;
  if (!each) {
    const looks = word.weights.map((heads, layer) => `layer ${layer} looks most at ${look(average(heads))}`);
    return `${start}On average over its heads ${looks.join("; ")}.`;
  }
  const all = word.weights.flatMap((heads, layer) => heads.map((rows, head) => ({ layer, head, row: rows[at] })));
  const sharp = all[most(all.map(({ row }) => Math.max(...row)))];
  return `${start}The sharpest is head ${sharp.head} of layer ${sharp.layer}: it looks most at ${look(sharp.row)}.`;
};

const draw = () => {
  const token = (text, kind) => el("span", { class: `token ${kind}` }, text);
  const before = [data.start, ...word.target.slice(0, at)].map((text) => token(text, "old"));
  const arrow = el("span", { "aria-hidden": "true" }, "→");
  said.replaceChildren(el("span", { class: "before" }, ...before), arrow,
    covered() ? token("?", "next") : token(word.target[at], "next lit"));
  const columns = word.source.map((text) => el("th", { scope: "col" }, text));
  const head = el("tr", null, el("td", { colspan: each ? 2 : 1 }), ...columns);
  const name = `${covered() ? "Hidden weights" : "Weights"} at step ${at + 1} of ${word.name}`;
  box.setAttribute("aria-label", name);
  table.className = each ? "heads" : "layers";
  table.replaceChildren(el("caption", { class: "unseen" }, name), el("thead", null, head),
    ...word.weights.map((heads, layer) => el("tbody", null, ...layerRows(heads, layer))));
  show.setAttribute("aria-disabled", !covered());
  line.textContent = inWords();
};

const walk = stepper("step", (n) => { at = n; draw(); });
const change = (i) => { word = data.words[i]; uncovered.clear(); walk.reset(word.target.length); };
const words = choice("word", data.words.map(({ name }) => name), change);
const rows = choice("rows", ["each layer, mean of its heads", "every head"], (i) => { each = i === 1; draw(); });
const show = el("button", { type: "button", onclick: () => { uncovered.add(at); draw(); } }, "show");
const first = toggle("guess first", (ticked) => {
  guess = ticked;
  uncovered.clear();
  if (guess) walk.append(show); else show.remove();                // among the steps: their keys work on it too
  draw();
});
const legend = el("p", { class: "legend" }, "The arrow points to the chosen token. "
  + "A bar's height is its weight; a row's highest is solid and numbered.");
stage.append(el("div", { class: "controls" }, words, rows, first), walk, said, box, legend, line);
walk.reset(word.target.length);
