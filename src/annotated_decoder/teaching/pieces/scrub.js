let at = 0;
const wide = 100, tall = 36, { moments, losses } = data, steps = data.steps;
const x = (step) => wide * step / steps;
const y = (loss) => tall * (1 - loss / data.most);
const line = status(), now = el("svg:g"), said = el("table", { class: "said" }), bars = el("div", { class: "bars" });
const told = scroll({ "aria-label": "The words, as they are said" }, said);

const curve = losses.map(([step, loss]) => `${x(step)},${y(loss)}`).join(" ");
const fall = `from ${losses[0][1].toFixed(1)} to ${losses.at(-1)[1].toFixed(1)}`;
const picture = el("svg:svg",
  { viewBox: `-1 -2 ${wide + 2} ${tall + 4}`, role: "img", "aria-label": `The loss over ${steps} steps goes ${fall}` },
  el("svg:path", { class: "axes", d: `M0 0V${tall}H${wide}` }), el("svg:polyline", { points: curve }), now);

// On the line that is drawn; before its first point and after its last it is taken as level.
const lossAt = (step) => {
  const i = losses.findIndex(([end]) => end > step);
  if (i <= 0) return losses.at(i)[1];
  const [[a, from], [b, to]] = losses.slice(i - 1, i + 1);
  return from + (to - from) * (step - a) / (b - a);
};
const right = (word, phonemes) => word.listed.includes(phonemes);
const row = (word, i) => {
  const phonemes = moments[at].said[i], ok = right(word, phonemes);
  return el("tr", null, el("th", { scope: "row" }, word.name),
    el("td", { class: ok ? "right" : null }, phonemes || "(no phoneme)"),
    el("td", null, ok ? "as listed" : `listed: ${word.listed[0]}`));
};
const bar = (token, i) => {
  const p = moments[at].shares[i], most = Math.max(...moments[at].shares);
  const level = el("span", { class: `level${p === most ? " most" : ""}`, "aria-hidden": "true" });
  level.style.setProperty("--p", p);
  return el("div", { class: "bar" }, el("b", null, token), level, el("span", null, p.toFixed(2)));
};

const draw = () => {
  const { step, shares } = moments[at], loss = lossAt(step);
  now.replaceChildren(el("svg:path", { class: "at", d: `M${x(step)} 0V${tall}` }),
    el("svg:circle", { cx: x(step), cy: y(loss), r: 1.6 }));
  said.replaceChildren(el("caption", null, "as they are said"), el("tbody", null, ...data.words.map(row)));
  bars.replaceChildren(...data.tokens.map(bar));
  const best = shares.indexOf(Math.max(...shares));
  const count = data.words.filter((word, i) => right(word, moments[at].said[i])).length;
  line.textContent = `After ${step} of ${steps} steps the loss is about ${loss.toFixed(1)}, and ${count} of `
    + `${data.words.length} words are said as listed. Most probable as ${data.asked}: `
    + `${data.tokens[best]}, ${shares[best].toFixed(2)}.`;
};

const walk = stepper("moment", (n) => { at = n; draw(); });
const above = `the loss, from 0 to ${data.most.toFixed(1)}`;
const ends = el("p", { class: "ends" }, el("span", null, "step 0"), el("span", null, `step ${steps}`));
stage.append(walk, el("p", { class: "name" }, above), picture, ends,
  el("div", { class: "both" }, told, el("div", null, el("p", { class: "name" }, data.asked), bars)), line);
walk.reset(moments.length);
