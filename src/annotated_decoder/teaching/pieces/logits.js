const { tokens, most } = data;
let z = [...data.logits], target = data.target, rate = data.rate;

const softmax = (logits) => {
  const highest = Math.max(...logits), powers = logits.map((x) => Math.exp(x - highest));
  const all = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / all);
};
const loss = (logits) => -Math.log(softmax(logits)[target]);
const gradient = (logits) => softmax(logits).map((p, i) => p - (i === target ? 1 : 0));
const stepped = (logits) => {
  const g = gradient(logits);
  return logits.map((x, i) => Math.max(-most, Math.min(most, x - rate * g[i])));    // the ends of the sliders
};

const number = (x) => {
  const size = Math.abs(x), digits = size && size < 0.0005 ? size.toPrecision(1) : size.toFixed(3);
  return (x < 0 ? "−" : "") + digits;
};
const said = status();

const lines = tokens.map((token, i) => {
  const written = el("span", { class: "value", "aria-hidden": "true" });
  const right = el("span", { class: "right" }), p = el("span", { class: "value" }), g = el("span", { class: "value" });
  const input = el("input", { type: "range", autocomplete: "off", min: -most, max: most, step: 0.1, oninput: () => {
    z[i] = +input.value;
    draw();
  } });
  const part = (name, kind, value) => el("span", { class: `part ${kind}` }, el("span", { class: "name" }, name),
    value, el("span", { class: "track", "aria-hidden": "true" }, el("span", { class: "bar" })));
  const line = el("div", { class: "line" },
    el("label", { class: "control" }, el("b", { class: "token" }, token), right, input, written),
    part("p", "share", p), part("p − y", "push", g));
  const show = (share, slope) => {
    input.value = z[i];                                              // the nearest tenth; z itself stays exact
    written.textContent = z[i].toFixed(2).replace("-", "−");
    input.setAttribute("aria-valuetext", `${written.textContent}, p ${number(share)}, p − y ${number(slope)}`);
    p.textContent = number(share);
    g.textContent = number(slope);
    right.textContent = i === target ? "target" : "";
    line.classList.toggle("right-one", i === target);
    line.style.setProperty("--p", share);
    line.style.setProperty("--g", slope);
  };
  return { line, show };
});

const draw = () => {
  const p = softmax(z), g = gradient(z), next = stepped(z);
  for (const [i, { show }] of lines.entries()) show(p[i], g[i]);
  said.textContent = `The target ${tokens[target]} has p = ${number(p[target])}, so the loss −ln p is `
    + `${number(loss(z))}. One step downhill at learning rate ${rate} would raise its logit by `
    + `${number(next[target] - z[target])}, lower the others, and leave a loss of ${number(loss(next))}.`;
};

const goal = choice("target", tokens, (i) => { target = i; draw(); });
goal.querySelector("select").selectedIndex = target;
const pace = slider("learning rate", { min: 0.1, max: 2, step: 0.1, value: rate }, String,
  (x) => { rate = x; draw(); });
const button = (name, next) => el("button", { type: "button", onclick: () => { z = next(); draw(); } }, name);
const head = el("div", { class: "line head" }, el("span", null, "token and its logit z"),
  el("span", null, "p = softmax(z)"), el("span", null, "gradient p − y"));
const legend = el("p", { class: "legend" }, "Downhill is against the gradient: a bar to the left of its line raises "
  + `that logit, one to the right lowers it. Sliders and steps end at −${most} and ${most}.`);
stage.append(el("div", { class: "controls" }, goal, pace, button("one step downhill", () => stepped(z)),
  button("as at first", () => [...data.logits])),
  el("div", { class: "lines" }, head, ...lines.map(({ line }) => line)), legend, said);
pace.move();
