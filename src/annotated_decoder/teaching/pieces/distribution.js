const n = data.symbols.length;
const stops = data.symbols.map((_, i) => i + 1).filter((k) => k <= data.shown || k % 6 === 0 || k === n);    // of top-k
let logits = data.steps[0].logits, temperature = 1, k = n, p = 1;

// As in annotated_decoder.strategies: temperature first, then top-k, then top-p; of equals the lower id stays.
const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);
const softmax = (scores) => {
  const highest = Math.max(...scores), powers = scores.map((z) => Math.exp(z - highest)), all = total(powers);
  return powers.map((power) => power / all);
};
const inOrder = (scores) => scores.map((_, id) => id).sort((a, b) => scores[b] - scores[a] || a - b);
const only = (scores, kept) => scores.map((z, id) => (kept.has(id) ? z : -Infinity));
const topK = (scores) => only(scores, new Set(inOrder(scores).slice(0, k)));
const topP = (scores) => {
  if (p === 1) return scores;
  const shares = softmax(scores);
  let sum = 0;
  return only(scores, new Set(inOrder(scores).filter((id) => {
    sum += shares[id];
    const before = sum - shares[id];                                 // what the better tokens have
    return before < p || before === 0;                               // the best stays
  })));
};

const number = (share) => (share === 0 ? "0" : share < 0.0005 ? "<0.001" : share.toFixed(3));
const wide = (kind, share) => {
  const bar = el("span", { class: kind });
  bar.style.setProperty("--w", share);
  return bar;
};
const said = status(), body = el("tbody"), drawn = el("p", { class: "drawn" });
let left = [], shares = [];                                          // the kept tokens, and what a draw goes by

const draw = () => {
  const highest = Math.max(...logits), heated = logits.map((z) => (z - highest) / temperature);
  const few = topK(heated), last = topP(few);
  const own = softmax(logits), had = softmax(heated), now = softmax(last);
  const order = inOrder(logits), listed = order.slice(0, data.shown), others = order.slice(data.shown);
  const kept = (id) => last[id] > -Infinity;
  const of = (shares, ids) => total(ids.map((id) => shares[id]));

  const line = (name, ids, how, kind) => el("tr", { class: kind }, el("th", { scope: "row" }, name),
    el("td", null, number(of(now, ids))), el("td", { class: "how" }, how),
    el("td", { class: "bars", "aria-hidden": "true" }, el("span", { class: "track" },
      ...(ids.some(kept) ? [wide("now", of(now, ids))] : []),
      ...(ids.every(kept) ? [] : [wide("was", of(had, ids.filter((id) => !kept(id))))]), wide("own", of(own, ids)))));
  const how = (id) => (kept(id) ? "kept" : few[id] > -Infinity ? "cut: top-p" : "cut: top-k");
  const kind = (id) => (id === order[0] ? "first" : kept(id) ? "kept" : "cut");
  const lines = listed.map((id) => line(data.symbols[id], [id], how(id), kind(id)));
  if (others.length) {
    const some = others.filter(kept).length;
    lines.push(line(`${others.length} more`, others, `${some} kept`, some ? "kept" : "cut"));
  }
  body.replaceChildren(...lines);

  const ids = order.filter(kept), bits = -total(ids.map((id) => (now[id] ? now[id] * Math.log2(now[id]) : 0)));
  [left, shares] = [ids, now];
  drawn.textContent = "";
  const first = `${data.symbols[order[0]]}, ${ids.length > 1 ? "the most probable" : "which every draw takes"}`;
  said.textContent = `At temperature ${temperature}, with ${k === n ? "no top-k" : `top-k ${k}`} and `
    + `${p === 1 ? "no top-p" : `top-p ${p}`}, ${ids.length} of ${n} tokens ${ids.length > 1 ? "are" : "is"} left. `
    + `${first}, has probability ${now[order[0]].toFixed(3)}, and the entropy is ${Math.abs(bits).toFixed(2)} bits.`;
};

// A dozen at once, as a sampler would: each by its share.
const throwDice = () => {
  const one = () => {
    const at = Math.random();
    return left.find((_, i) => at < total(left.slice(0, i + 1).map((id) => shares[id]))) ?? left[0];
  };
  const ids = Array.from({ length: 12 }, one), counts = left.map((id) => [id, ids.filter((each) => each === id).length]);
  const told = counts.filter(([, n]) => n).map(([id, n]) => `${data.symbols[id]} ${n}`);
  drawn.textContent = `Twelve draws: ${told.join(", ")}.`;
};
const heat = slider("temperature", { min: 0.1, max: 2, step: 0.05, value: 1 }, String,
  (value) => { temperature = value; draw(); });
const most = slider("top-k", { min: 0, max: stops.length - 1, value: stops.length - 1 },
  (at) => (stops[at] === n ? `all ${n}` : `${stops[at]}`), (at) => { k = stops[at]; draw(); });
const mass = slider("top-p", { min: 0.05, max: 1, step: 0.01, value: 1 }, String, (value) => { p = value; draw(); });
const start = () => {
  for (const [bar, value] of [[heat, 1], [most, stops.length - 1], [mass, 1]]) {
    bar.input.value = value;
    bar.move();
  }
};
const steps = choice("step", data.steps.map(({ name }) => name), (i) => { logits = data.steps[i].logits; draw(); });
const head = ["token", "probability", "filters"].map((text) => el("th", { scope: "col" }, text));
const table = el("table", null, el("caption", { class: "unseen" }, "The candidates of this step"),
  el("thead", null, el("tr", null, ...head, el("td", { "aria-hidden": "true" }))), body);
const legend = el("p", { class: "legend" }, "A solid bar is what a draw goes by, a dashed one what a filter has cut. "
  + "The upright mark is the model's own probability.");
stage.append(el("div", { class: "controls" }, steps), el("div", { class: "controls" }, heat, most, mass,
  el("button", { type: "button", onclick: start }, "back to the model's own"),
  el("button", { type: "button", onclick: throwDice }, "draw twelve")), drawn,
  scroll({ "aria-label": "The candidates of this step" }, table),
  legend, said);
start();
