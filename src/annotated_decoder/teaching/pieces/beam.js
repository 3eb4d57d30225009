let word = data.words[0], width = 1, penalty = 0, at = 0;
const key = (said) => said.join(" ");
const score = ({ said, total }, by = penalty) => total / said.length ** by;
const goesOn = ({ said }) => key(said) in word.after;                // not finished, and not at the limit
const number = (x) => x.toFixed(2).replace("-", "−");
const token = (id) => data.symbols[id];
const spelled = ({ said }) => said.map(token).join(" ");

// The candidates of every step, best first; the first `width` of them go on. `from` is a place in the step before.
const search = (wide, by) => {
  const steps = [];
  let beam = [{ said: [], total: 0 }];
  while (beam.some(goesOn)) {
    const candidates = beam.flatMap((each, from) => goesOn(each)
      ? word.after[key(each.said)].map(([id, p]) => ({ said: [...each.said, id], total: each.total + p, from }))
      : [{ ...each, from, ended: true }]);
    candidates.sort((a, b) => score(b, by) - score(a, by));          // stable: of equals the first slot's stays
    const count = beam.reduce((sum, each) => sum + (goesOn(each) ? data.symbols.length : 1), 0);
    steps.push({ count, shown: candidates.slice(0, wide + data.dropped) });
    beam = candidates.slice(0, wide);
  }
  return steps;
};

// The places of the leader's path, from the first step to this one.
const lead = (steps) => {
  const places = [0];
  for (let n = steps.length - 1; n > 0; n -= 1) places.unshift(steps[n].shown[places[0]].from);
  return places;
};

const line = status(), tree = el("div", { class: "tree" });
const box = scroll({}, tree);
const toEnd = () => { box.scrollLeft = box.scrollWidth; };          // the newest step is in sight

const node = (each, place, lit, last) => {
  const stays = place < width;
  const words = lit && last ? "winner" : stays ? (each.ended ? "ended, kept" : "kept") : "dropped";
  const before = each.said.slice(0, -1).map(token).join(" ");
  return el("li", { class: `${stays ? "kept" : "dropped"}${lit ? " lit" : ""}${each.ended ? " ended" : ""}` },
    el("span", { class: "unseen" }, before), el("b", null, token(each.said.at(-1))),
    el("span", { class: "sum" }, number(each.total)),
    el("small", null, penalty ? `${words}, ${number(score(each))}` : words));
};
const edges = (shown, place) => {
  const rows = width + data.dropped;
  const all = shown.map((each, i) => el("svg:path", {
    d: `M0 ${each.from + 0.5} C0.5 ${each.from + 0.5} 0.5 ${i + 0.5} 1 ${i + 0.5}`,
    class: `${i < width ? "kept" : "dropped"}${i === place ? " leads" : ""}`,
  }));
  const frame = { viewBox: `0 0 1 ${rows}`, preserveAspectRatio: "none", "aria-hidden": "true" };
  const drawn = el("svg:svg", frame, ...all);
  drawn.style.setProperty("--rows", rows);
  return drawn;
};

const sentence = (steps) => {
  const { count, shown } = steps.at(-1), [best] = shown, n = best.said.length, out = shown[width];
  const start = `Width ${width}, length penalty ${penalty.toFixed(1)}, step ${steps.length}: `
    + `of ${count} candidates ${width === 1 ? "one stays" : `${width} stay`}. `;
  const by = penalty ? `score ${number(score(best))}, which is ${number(best.total)} / ${n}^${penalty.toFixed(1)}`
    : `log-probability ${number(best.total)}`;
  if (at < found.length - 1) {
    return `${start}The best is ${spelled(best)}, ${by}. The best that is dropped: ${spelled(out)}.`;
  }
  const ended = at > found.length - 1 ? `The search ended at step ${found.length}` : "The search ends";
  return `${start}${ended}. The winner is ${spelled(best)}, ${by}.`;
};

let found = [];
const draw = () => {
  const steps = found.slice(0, at + 1), places = lead(steps), last = at >= found.length - 1;
  const columns = steps.flatMap(({ shown }, n) => [edges(shown, places[n]), el("div", { class: "turn" },
    el("p", null, `step ${n + 1}`),
    el("ol", null, ...shown.map((each, i) => node(each, i, i === places[n], last && n === steps.length - 1))))]);
  const start = el("ol", null, el("li", { class: "kept lit" }, el("b", null, data.start), el("small", null, "start")));
  tree.replaceChildren(el("div", { class: "turn first" }, el("p", null, "start"), start), ...columns);
  box.setAttribute("aria-label", `The beam of ${word.name}, width ${width}, up to step ${steps.length}`);
  toEnd();
  line.textContent = sentence(steps);
};
const renew = () => { found = search(width, penalty); draw(); };

// Every word has as many steps as its longest search, so that a slider moved to and fro comes back to the same place.
const longest = () => Math.max(...Array.from({ length: data.width }, (_, w) => w + 1)
  .flatMap((w) => data.penalties.map((by) => search(w, by).length)));
const walk = stepper("step", (n) => { at = n; renew(); });
const begin = () => { walk.reset(longest()); walk.go(3); };
const words = choice("word", data.words.map(({ name }) => name), (i) => { word = data.words[i]; begin(); });
const wide = slider("width", { min: 1, max: data.width, value: 2 }, String, (n) => { width = n; renew(); });
const long = slider("length penalty", { min: 0, max: data.penalties.length - 1 },
  (i) => data.penalties[i].toFixed(1), (i) => { penalty = data.penalties[i]; renew(); });
const legend = el("p", { class: "legend" }, "Each column is a step. Its candidates are what was kept before, "
  + "with every token that could follow; the best are shown, best first, with the sum of log-probabilities so far. "
  + "Solid ones are kept, dashed ones dropped; yellow is the way of the best one so far.");
stage.append(el("div", { class: "controls" }, words, wide, long), walk, box, legend, line);
wide.move();
long.move();
begin();
requestAnimationFrame(toEnd);                                       // now it is on the page
