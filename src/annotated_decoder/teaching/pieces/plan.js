// What a card holds of a training, against the memory that it has; how long it takes; what a card needs.
// Every number stands in the data: held[way][size][cards] is the three parts, their sum, what is left, and how many cards.
const { memory, sizes, cards, parts, ways, held, lasts, asks } = data;
let [size, at] = data.start, way = 0;

const number = (x) => {
  const digits = x < 10 ? 2 : x < 100 ? 1 : 0;
  return x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
};
const gb = (x) => (x < 0.01 ? "<0.01 GB" : `${number(x)} GB`);
const onCards = (n) => (n === 1 ? "1 card" : `${n.toLocaleString("en")} cards`);
const share = (part, x) => {
  const slice = el("span", { class: `slice ${part}` });
  slice.style.setProperty("--w", x / (2 * memory));                  // of the scale, which is two cards long
  return slice;
};

const verdict = el("p", { class: "verdict" }), line = status();
const stack = el("div", { class: "stack" }), end = el("span");
const shelf = el("div", { class: "shelf", "aria-hidden": "true" }, stack, el("div", { class: "frame" }));
const scale = el("p", { class: "scale", "aria-hidden": "true" },
  el("span", null, "0"), el("span", null, `${memory} GB: an H100`), end);
const body = el("tbody"), takes = el("div"), needs = el("div");

const fits = ([, , , , left, times]) => {
  if (left > 0) return `It fits, and leaves ${gb(left)} for activations and buffers`;
  return left < 0 ? `It does not fit: ${number(times)} times its ${memory} GB` : "The card is full, with no room left";
};
const fact = (box, title, answer, why) => box.replaceChildren(
  el("p", null, title), el("p", { class: "answer" }, answer), el("p", null, why));

const redraw = () => {
  const now = held[way][size][at], sum = now[3], over = sum > 2 * memory;
  const { name, cut } = ways[way], n = cards[at];
  const { weights, tokens } = sizes[size];

  verdict.replaceChildren("A card has to hold ", el("strong", null, gb(sum)), ". ",
    el("span", { class: now[4] > 0 ? "" : "lit" }, `${fits(now)}.`));
  stack.replaceChildren(...parts.map(([part], i) => share(part, now[i])));
  stack.classList.toggle("over", over);
  end.textContent = over ? `${gb(sum)} →` : `${2 * memory} GB`;
  body.replaceChildren(...parts.map(([part, bytes], i) => el("tr", null,
    el("th", { scope: "row" }, el("span", { class: `slice ${part}`, "aria-hidden": "true" }), part),
    el("td", null, `${bytes} bytes`), el("td", null, cut[i] && n > 1 ? `cut in ${n.toLocaleString("en")}` : "whole"),
    el("td", null, gb(now[i])))));
  fact(takes, `Twenty tokens a weight, ${tokens}, take`, lasts[size][at], `at ${data.used} of the cards’ peak.`);
  fact(needs, ...asks[at]);
  const told = `${weights} weights on ${onCards(n)}, ${name}. A card has to hold ${gb(sum)}. ${fits(now)}. `
    + `Twenty tokens a weight take ${lasts[size][at]}. `
    + `${asks[at].join(" ")} Activations and buffers come on top.`;
  line.textContent = told.replace("<", "less than ");
};

const big = slider("weights", { min: 0, max: sizes.length - 1, value: size }, (i) => sizes[i].weights,
  (i) => { size = i; redraw(); });
const wide = slider("cards", { min: 0, max: cards.length - 1, value: at }, (i) => cards[i].toLocaleString("en"),
  (i) => { at = i; redraw(); });
const how = choice("way", ways.map(({ name }) => name), (i) => { way = i; redraw(); });
const head = ["part", "a weight", "on a card", "makes"].map((text) => el("th", { scope: "col" }, text));
stage.append(el("div", { class: "controls" }, big, wide, how), verdict, shelf, scale,
  el("table", null, el("thead", null, el("tr", null, ...head)), body),
  el("div", { class: "facts" }, takes, needs), line);
big.move();
wide.move();
