// Some pairs of a position's code as hands of clocks; second hands k positions further on; both codes' dot product.
const { dials, codes, dots, width } = data, longest = dots[0].length - 1, last = dials.length - 1;
let at = 5, k = 2;

// A pair is (sine, cosine): how far the hand's tip stands to the right, and how far up.
const angle = ([sine, cosine]) => Math.atan2(sine, cosine) * 180 / Math.PI;
const apart = (i) => (angle(codes[at + k][i]) - angle(codes[at][i]) + 360) % 360;    // clockwise, from hand to hand
const degrees = (x) => (x > 0 && x < 0.1 ? "<0.1°" : `${x.toFixed(x < 10 ? 1 : 0)}°`);
const feature = (x) => x.toFixed(2).replace(/^-(0\.00)$/, "$1").replace("-", "−");
const tip = ([sine, cosine]) => `${0.86 * sine} ${-0.86 * cosine}`;
const path = (kind, d) => el("svg:path", { class: kind, d });

const faces = el("div", { class: "dials", role: "list", "aria-label": "dials, the fastest first" });
const curve = el("svg:svg", { class: "curve", "aria-hidden": "true", preserveAspectRatio: "none" });
const product = el("p", { class: "product" }), line = status();

const drawDial = ({ pair, words }, i) => {
  const [now, then] = [codes[at][i], codes[at + k][i]];
  const wedge = `M0 0L${tip(now)}A.86 .86 0 ${+(apart(i) > 180)} 1 ${tip(then)}Z`;
  const shifted = k ? [path("wedge", wedge), path("second", `M0 0L${tip(then)}`)] : [];
  return el("div", { class: "dial", role: "listitem" },
    el("svg:svg", { viewBox: "-1.08 -1.08 2.16 2.16", "aria-hidden": "true" },
      el("svg:circle", { class: "ring", r: 1 }), path("ticks", "M0-1V-.9M0 1V.9M-1 0H-.9M1 0H.9"),
      ...shifted, path("hand", `M0 0L${tip(now)}`)),
    el("span", { class: "pair" }, `pair ${pair}`), el("span", null, words),
    el("span", { class: "tip" }, `(${now.map(feature).join(", ")})`),
    ...(k ? [el("span", { class: "apart" }, `${degrees(apart(i))} ahead`)] : []));
};
const drawCurve = () => {
  const most = dots[0][0], least = Math.min(0, ...dots[at]);
  curve.setAttribute("viewBox", `-0.5 ${-0.05 * most} ${longest + 1} ${1.1 * (most - least)}`);
  const bar = (dot, j) => path(j === k ? "bar now" : "bar", `M${j} ${most - dot}V${most}`);
  curve.replaceChildren(path("zero", `M-0.5 ${most}H${longest + 0.5}`), ...dots[at].map(bar));
};
const inWords = () => {
  const rounds = ({ period }) => (at && at / period < 0.01 ? "less than 0.01" : (at / period).toFixed(2));
  const dot = dots[at][k].toFixed(2);
  const start = `Position ${at}: the fastest of these hands has been round ${rounds(dials[0])} times, `
    + `the slowest ${rounds(dials[last])} times. `;
  if (!k) return `${start}Without a shift there is one code; its dot product with itself is ${dot}, half its width.`;
  return `${start}Position ${at + k} stands ${k} further on: there the hand of the fastest dial is `
    + `${degrees(apart(0))} ahead, of the slowest ${degrees(apart(last))}. The dot product of the two codes is ${dot}.`;
};
const redraw = () => {
  faces.replaceChildren(...dials.map(drawDial));
  drawCurve();
  product.replaceChildren(`dot product of the codes of positions ${at} and ${at + k}, all ${width} features: `,
    el("strong", null, dots[at][k].toFixed(2)));
  line.textContent = inWords();
};

const position = slider("position", { min: 0, max: dots.length - 1, value: at }, String, (n) => { at = n; redraw(); });
const further = (n) => (n ? `${n} further on` : "no shift");
const shift = slider("shift by k", { min: 0, max: longest, value: k }, further, (n) => { k = n; redraw(); });
const ends = el("p", { class: "ends" }, el("span", null, "k = 0"), el("span", null, `k = ${longest}`));
const legend = el("p", { class: "legend" }, "The solid hand is the position's, the dotted one that of k positions "
  + "further on. In brackets are the two features that the solid hand stands for: how far right its tip is, and how "
  + "far up. The bars are the dot products of all shifts, the thick one that of the chosen k.");
faces.style.setProperty("--across", Math.ceil(dials.length / 2));
stage.append(el("div", { class: "controls" }, position, shift), faces, product, curve, ends, legend, line);
position.move();
shift.move();
