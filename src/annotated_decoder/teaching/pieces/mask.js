// A mask painted by hand: which position may look where, and what reaches each output through some layers.
const { tokens, real } = data, count = tokens.length, all = [...tokens.keys()];    // from `real` on there is padding
const square = (is) => all.map((q) => all.map((k) => is(q, k)));
const PRESETS = {
  causal: (q, k) => k <= q, all: () => true, "none but itself": (q, k) => q === k,
  "all but padding": (_, k) => k < real,
};
if (real === count) delete PRESETS["all but padding"];
let mask = data.mask, layers = 1;

// What reaches what: in one layer what the mask lets in, and the position's own token, which makes the query and goes
// past the layer on a shortcut; each further layer passes on what the one before has gathered.
const after = (a, b) => square((q, k) => all.some((through) => a[q][through] && b[through][k]));
const reached = () => {
  const layer = square((q, k) => mask[q][k] || q === k);
  let found = layer;
  for (let i = 1; i < layers; i++) found = after(layer, found);
  return found;
};
const place = (i) => `position ${i} (${tokens[i]})`;
const later = (q, k) => q < k && k < real;                         // a token that is not there yet when q is written
const answer = (q, k) => k === q + 1 && k < real;                   // the token that q should predict

// ---- In words ----
const verdict = (q, seen) => {
  const first = all.find((k) => seen[k] && later(q, k));
  if (q >= real) return "not scored";
  if (seen[q + 1] && answer(q, q + 1)) return `can copy ${tokens[q + 1]}`;
  if (first !== undefined) return `sees ${tokens[first]} too early`;
  if (all.some((k) => seen[k] && k >= real)) return "sees padding";
  return mask[q].some(Boolean) ? "has to predict" : "may look nowhere";
};
const inWords = (seen) => {
  const rows = all.slice(0, real), copies = rows.filter((q) => answer(q, q + 1) && seen[q][q + 1]);
  const early = rows.find((q) => all.some((k) => seen[q][k] && later(q, k)));
  const padded = rows.find((q) => all.some((k) => seen[q][k] && k >= real));
  const blind = all.filter((q) => !mask[q].some(Boolean)), named = blind.map((q) => `${q} (${tokens[q]})`).join(", ");
  const through = `Through ${layers} ${layers === 1 ? "layer" : "layers"}`;
  const plural = blind.length > 1 ? "Positions" : "Position";
  const nowhere = named && ` ${plural} ${named} may look nowhere, so attention gives 0 there.`;
  const told = () => {
    if (copies.length) {
      const next = copies[0] + 1;
      return `${through} ${place(copies[0])} sees token ${next}, ${tokens[next]}, which it should predict. `
        + `Training could copy the answer at ${copies.length} of ${real - 1} positions.`;
    }
    if (early !== undefined) {
      const token = all.find((k) => seen[early][k] && later(early, k));
      return `${through} ${place(early)} sees token ${token}, ${tokens[token]}, too early: `
        + "while generating it is not there yet.";
    }
    const honest = `${through} no position sees a later token, so each has to predict`;
    if (padded === undefined) return `${honest}.`;
    return `${honest}; but padding reaches ${place(padded)}, and more of it would change the output.`;
  };
  return told() + nowhere;
};

// ---- What may be looked at: buttons in a square ----
const headings = () => all.map((k) => el("th", { scope: "col" }, el("span", { class: "at" }, k), tokens[k]));
const heading = (q) => el("th", { scope: "row" }, el("span", { class: "at" }, q), tokens[q]);
let brush = null, painted = false;                                 // where a mouse went down, and whether it went on
const put = (q, k, may) => { mask = square((i, j) => (i === q && j === k ? may : mask[i][j])); draw(); };
const button = (q, k) => el("button", {
  type: "button", class: q < k ? "spot later" : "spot", "aria-label": `${place(q)} may look at ${place(k)}`,
  onclick: ({ detail }) => { if (!detail || !painted) put(q, k, !mask[q][k]); },    // a key's click has no detail
  onpointerdown: () => { brush = { q, k, may: !mask[q][k] }; painted = false; },
  onpointerenter: ({ buttons, pointerType }) => {                   // a finger scrolls, a mouse paints
    if (!brush || buttons !== 1 || pointerType !== "mouse") return;
    painted = true;
    put(brush.q, brush.k, brush.may);
    put(q, k, brush.may);
  },
});
const spots = square(button);
const onkeydown = (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  const q = all.find((i) => spots[i].includes(event.target));
  if (!step || q === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  spots[q + step[0]]?.[spots[q].indexOf(event.target) + step[1]]?.focus();
};
const name = (text) => el("caption", null, text), corner = (text) => el("td", { class: "corner" }, text);
const lift = () => { brush = null; };
const grid = el("table", { onkeydown, onpointerup: lift, onpointerleave: lift }, name("the mask: who may look where"),
  el("thead", null, el("tr", null, corner("query ↓\nkey →"), ...headings())),
  el("tbody", null, ...all.map((q) => el("tr", null, heading(q), ...spots[q].map((spot) => el("td", null, spot))))));

// ---- What reaches each output ----
const reach = el("table", { class: "reach" }), said = status();
const sign = (seen, q, k) => {
  if (!seen) return el("td", null, "");
  const leak = later(q, k), copied = answer(q, k);
  return el("td", { class: copied ? "lit" : leak ? "leak" : "seen" }, leak ? "!" : "•",
    el("span", { class: "unseen" }, copied ? " leaks: the answer" : leak ? " leaks" : " reaches it"));
};
const draw = () => {
  const seen = reached();
  for (const q of all) for (const k of all) {
    spots[q][k].setAttribute("aria-pressed", mask[q][k]);
    spots[q][k].textContent = mask[q][k] ? "✓" : "–";
  }
  for (const [preset, is] of Object.entries(PRESETS)) {
    presets[preset].setAttribute("aria-pressed", String(square(is)) === String(mask));
  }
  reach.replaceChildren(name(`what reaches each output through ${layers} ${layers === 1 ? "layer" : "layers"}`),
    el("thead", null, el("tr", null, corner("output ↓\ntoken →"), ...headings(), el("td"))),
    el("tbody", null, ...all.map((q) => el("tr", null, heading(q), ...all.map((k) => sign(seen[q][k], q, k)),
      el("td", { class: "verdict" }, verdict(q, seen[q]))))));
  said.textContent = inWords(seen);
};

// ---- What can be pressed ----
const presets = Object.fromEntries(Object.entries(PRESETS).map(([preset, is]) =>
  [preset, el("button", { type: "button", onclick: () => { mask = square(is); draw(); } }, preset)]));
const depth = slider("layers", { min: 1, max: 4 }, String, (n) => { layers = n; draw(); });
const legend = el("p", { class: "legend" },
  todo("Press a cell to let a position look there, or not; a mouse that is held paints. "),
  "• reaches the output. ! is a leak, a later token; where it is yellow, the very token that the position "
  + "should predict. "
  + "A position's own token always reaches its output: it makes the query.");
stage.append(el("div", { class: "controls" }, ...Object.values(presets), depth),
  el("div", { class: "pair" }, scroll({ "aria-label": "the mask", tabindex: null }, grid),
    scroll({ "aria-label": "what reaches each output" }, reach)),
  legend, said);
depth.move();
