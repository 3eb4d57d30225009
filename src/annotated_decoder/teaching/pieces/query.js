// A query that is turned and stretched by hand: the keys on the left, what it gathers from the values on the right.
const SIZE = 112, REACH = 86;                                      // half a plane, and half of what its points span
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const mean = (weights, rows) => rows[0].map((_, i) => dot(weights, rows.map((row) => row[i])));
const softmax = (scores) => {
  const most = Math.max(...scores), powers = scores.map((score) => Math.exp(score - most));
  return powers.map((power) => power / powers.reduce((all, each) => all + each));
};
const shown = (x, digits) => (Math.abs(x) < 0.5 / 10 ** digits ? 0 : x).toFixed(digits).replace("-", "−");
const vector = (numbers, digits) => `(${numbers.map((x) => shown(x, digits)).join(", ")})`;

let degrees = data.degrees, length = data.length, plain = false;
const direction = () => [Math.cos(degrees * Math.PI / 180), Math.sin(degrees * Math.PI / 180)];
const scores = () => data.keys.map((key) => length * dot(direction(), key) / (plain ? 1 : Math.sqrt(data.width)));

// ---- Two planes, each as large as its points and their origin need ----
const plane = (name, points) => {
  const sides = [0, 1].map((i) => [0, ...points.map((point) => point[i])]);
  const [low, high] = [sides.map((side) => Math.min(...side)), sides.map((side) => Math.max(...side))];
  const half = Math.max(high[0] - low[0], high[1] - low[1]) / 2 || 1, scale = REACH / half;
  const at = (point) => point.map((x, i) => (i ? -scale : scale) * (x - (low[i] + high[i]) / 2));
  const [x, y] = at([0, 0]), drawn = el("svg:g");
  const axes = el("svg:path", { class: "axes", d: `M-${SIZE} ${y}H${SIZE}M${x} -${SIZE}V${SIZE}` });
  const svg = el("svg:svg", { viewBox: `-${SIZE} -${SIZE} ${2 * SIZE} ${2 * SIZE}`, role: "img", "aria-label": name });
  svg.append(axes, drawn);
  return { svg, drawn, scale, at, node: el("div", null, el("p", { class: "name" }, name), svg) };
};
const around = [-1, 1].map((side) => [side * data.longest, side * data.longest]);
const left = plane("keys and query", [...around, ...data.keys]), right = plane("values and average", data.places);
const middle = mean(data.places.map(() => 1 / data.places.length), data.places);

const line = ([x, y], [u, v], kind) => el("svg:path", { class: kind, d: `M${x} ${y}L${u} ${v}` });
const arrow = ([u, v], [x, y], kind, wide) => {                     // from (u, v) to (x, y), with a head
  const back = Math.min(1, (6 + wide) / (Math.hypot(x - u, y - v) || 1)), [dx, dy] = [back * (x - u), back * (y - v)];
  const wing = (side) => `${x - dx - side * dy / 2} ${y - dy + side * dx / 2}`, d = `M${u} ${v}L${x} ${y}`;
  return el("svg:path", { class: kind, "stroke-width": wide, d: `${d}M${wing(1)}L${x} ${y}L${wing(-1)}` });
};
const label = ([x, y], [u, v], text, gap = 6) => {                  // beside the point, away from (u, v)
  const far = Math.hypot(x - u, y - v) || 1, half = 3.6 * text.length, edge = SIZE - 1.3 * half;
  const beside = x + (gap + half + 2) * (x - u) / far;
  return el("svg:text", { x: Math.max(-edge, Math.min(edge, beside)), y: y + (gap + 7) * (y - v) / far }, text);
};
const drawKeys = (weights) => {
  const [x, y] = direction(), on = (long) => left.at([long * x, long * y]);    // a point on the line of the query
  const shadows = data.keys.map((key) => line(left.at(key), on(dot([x, y], key)), "shadow"));
  const keys = data.keys.flatMap((key, i) => [arrow(on(0), left.at(key), "key", 1.5 + 4 * weights[i]),
    label(left.at(key), on(0), data.names[i])]);
  const [cx, cy] = on(length), far = 2 * data.longest;
  left.drawn.replaceChildren(line(on(-far), on(far), "along"), ...shadows, ...keys, line(on(0), [cx, cy], "query"),
    el("svg:circle", { class: "tip", cx, cy, r: 7 }), label([cx, cy], [cx - y, cy - x], "query", 6));
};
const drawValues = (weights) => {
  const places = data.places.map(right.at), points = data.hull.map((i) => places[i].join(" ")).join(" ");
  const dots = places.flatMap(([cx, cy], i) => {
    const r = 2.5 + 7 * Math.sqrt(weights[i]), name = label([cx, cy], right.at(middle), data.names[i], 3 + r);
    return [line(right.at([0, 0]), [cx, cy], "value"), el("svg:circle", { class: "dot", cx, cy, r }), name];
  });
  right.drawn.replaceChildren(el("svg:polygon", { class: "hull", points }), ...dots,
    arrow(right.at([0, 0]), right.at(mean(weights, data.places)), "average", 3.5));
};

// ---- The same in numbers, and in words ----
const table = el("table"), said = status(), whole = data.values.flat().every(Number.isInteger);
const drawTable = (all, weights, most) => {
  const over = plain ? "" : `\u00a0/\u00a0√${data.width}`, names = ["key", `score q·k${over}`, "weight", "value"];
  const cell = (kind, ...inside) => el("td", { class: kind }, ...inside);
  const lines = data.names.map((name, i) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--w", weights[i]);
    const weight = el("span", { class: length && i === most ? "lit" : null }, weights[i].toFixed(3));
    return el("tr", { class: i === most ? "most" : null }, el("th", { scope: "row" }, name),
      cell("score", shown(all[i], 2)), cell("weight", weight, bar),
      cell("vector", vector(data.values[i], whole ? 0 : 2)));
  });
  const last = el("tr", { class: "sum" }, el("th", { scope: "row" }, "average"),
    el("td", { class: "vector", colspan: 3 }, vector(mean(weights, data.values), 3)));
  table.replaceChildren(el("thead", null, el("tr", null, ...names.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", null, ...lines, last));
};
const inWords = (weights, most) => {
  const average = `the average of the values is ${vector(mean(weights, data.values), 3)}`;
  const size = weights[most].toFixed(3), none = "The query has no length, so every score is 0";
  if (!length) return `${none} and every key has the weight ${size}; ${average}, their plain mean.`;
  const sharp = weights[most] > 0.99 ? `, nearly the value of key ${data.names[most]} alone` : "";
  return `${plain ? `Without the division by √${data.width}, at` : "At"} ${degrees}° and length ${length.toFixed(2)}, `
    + `key ${data.names[most]} has the largest weight, ${size}; ${average}${sharp}.`;
};
const draw = () => {
  const all = scores(), weights = softmax(all), most = weights.indexOf(Math.max(...weights));
  drawKeys(weights);
  drawValues(weights);
  drawTable(all, weights, most);
  said.textContent = inWords(weights, most);
};

// ---- What can be moved: two sliders, or the tip of the query ----
const turn = slider("direction", { min: 0, max: 359, value: degrees }, (n) => `${n}°`, (n) => { degrees = n; draw(); });
const step = data.length / data.steps, most = Math.round(data.longest / step);    // so that it begins exactly as given
const stretch = slider("length", { min: 0, max: most, value: data.steps },
  (n) => (n * step).toFixed(2), (n) => { length = n * step; draw(); });
const divide = toggle(`leave out the division by √${data.width}`, (ticked) => { plain = ticked; draw(); });
const drag = ({ clientX, clientY }) => {
  const box = left.svg.getBoundingClientRect(), scale = 2 * SIZE / left.scale;
  const x = scale * ((clientX - box.left) / box.width - 0.5), y = scale * (0.5 - (clientY - box.top) / box.height);
  turn.input.value = Math.round(Math.atan2(y, x) * 180 / Math.PI + 360) % 360;
  stretch.input.value = Math.round(Math.hypot(x, y) / step);
  turn.move();
  stretch.move();
};
left.svg.addEventListener("pointerdown", (event) => { left.svg.setPointerCapture(event.pointerId); drag(event); });
left.svg.addEventListener("pointermove", (event) => { if (left.svg.hasPointerCapture(event.pointerId)) drag(event); });
left.svg.classList.add("held");
const shadow = data.width > 2 ? "The keys are drawn in the plane that holds the query, so the scores are all there. " : "";
const legend = el("p", { class: "legend" }, `Vectors have ${data.width} dimensions. ${shadow}`,
  todo("Drag the tip of the query, or move the sliders. "), "A dashed line ends at a key's shadow on the line of the query: "
  + `the score is shadow times length, divided by √${data.width}. `
  + "A value's dot grows with its weight; the thick arrow is the average.");
const controls = el("div", { class: "controls" }, turn, stretch, divide);
stage.append(controls, el("div", { class: "planes" }, left.node, right.node), legend,
  scroll({ "aria-label": "scores, weights and values" }, table), said);
turn.move();
stretch.move();
