// A trained model writes a word: letters above, what it says below, arcs from each sound to the letters it looks at.
// Recorded steps play everywhere; on a page of the book any word can be typed, and the model itself runs.
const END = data.symbols.indexOf(data.end), name = (token) => data.symbols[token];
const book = document.querySelector('script[src*="_static/book.js"]')?.src;
const live = Boolean(data.live && book && location.protocol.startsWith("http"));    // from the disk nothing is fetched
const motion = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;
const largest = (row) => row.indexOf(Math.max(...row));
const mean = (rows) => rows[0].map((_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length);
const shown = (p) => (p < 0.0005 ? "<0.001" : p.toFixed(p < 0.005 ? 3 : 2));
const softmax = (logits, heat = temperature || 1) => {
  const most = Math.max(...logits), powers = logits.map((z) => Math.exp((z - most) / heat));
  const sum = powers.reduce((all, power) => all + power, 0);
  return powers.map((power) => power / sum);
};

// ---- What we look at: a word, the run it led to, the step we stand at, and what was changed by hand ----
let word = data.words[0], run, at = 0, view = [data.layer, null], temperature = 0, playing = 0, pace = "steadily";
let forced = [], covered = [];      // all tokens up to one that was chosen by hand; letters that are not to be seen
let told = false;                   // whether what follows a choice is shown before it is played
const typed = () => Boolean(model && word.letters);
const best = (p) => [...p.keys()].sort((a, b) => p[b] - p[a]);

// ---- The model: fetched when someone begins to type ----
let model = null, coming = null, asked = 0;
const answer = el("p", { class: "answer", role: "alert" }), progress = el("span", { class: "loading" });
const load = async () => {
  const [code, weights] = ["decoder.js", "pronouncer.safetensors"].map((name) => new URL(name, book));
  const [decoder, file] = await Promise.all([import(code), fetch(weights)]);
  if (!file.ok) throw new Error(`the server answers ${file.status}`);
  const bar = el("progress", { max: data.bytes, value: 0, "aria-label": "loading the model" }), parts = [];
  progress.append(bar, ` the model, ${(data.bytes / 1e6).toFixed(1)} MB, once`);
  for (const reader = file.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    bar.value += value.length;
  }
  model = { ...decoder, net: new decoder.Model(await new Blob(parts).arrayBuffer()) };
};
const fetchModel = () => {
  coming ??= load().catch((error) => {
    coming = null;                                                    // the next try asks again
    throw new Error(`The model could not be loaded (${error.message}). The recorded words play without it.`);
  }).finally(() => progress.replaceChildren());
  return coming;
};
const ask = async (text) => {
  const mine = ++asked;                                               // a newer word cancels this one
  stop();
  answer.textContent = "";
  try {
    await fetchModel();
    if (mine !== asked) return;
    begin({ name: text.trim(), letters: model.net.lettersOf(text) }, motion());
    answer.textContent = readAs(text);
  } catch (error) {
    if (mine !== asked) return;
    scene.dataset.old = "";
    answer.textContent = `${error.message} Below still stands “${word.name}”.`;
  }
};
const readAs = (text) => {                                            // what the model cannot see of a letter is said
  const signs = new Set(text.normalize("NFC").toLowerCase()), plain = (sign) => sign.normalize("NFD").replace(/\p{M}/gu, "");
  const pairs = [...signs].filter((sign) => plain(sign) !== sign).map((sign) => `“${sign}” as “${plain(sign)}”`);
  return pairs.length ? `The model knows no accents: it reads ${pairs.join(" and ")}.` : "";
};

// ---- The voice: fetched when someone wants to hear what the model says, and not what the spelling would say ----
let voice = null, speakers = null, sounding = null;
const loadVoice = async () => {
  const [code, bank] = ["voice.js", "voice.bin"].map((name) => new URL(name, book));
  const [{ Voice }, file] = await Promise.all([import(code), fetch(bank)]);
  if (!file.ok) throw new Error(`the server answers ${file.status}`);
  return new Voice(await file.arrayBuffer());
};
const playSamples = (samples, rate) => {
  const buffer = speakers.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  sounding?.stop();
  sounding = speakers.createBufferSource();
  sounding.buffer = buffer;
  sounding.connect(speakers.destination);
  hearing.dataset.state = "speaks";
  sounding.onended = ({ target }) => { if (target === sounding) hearing.dataset.state = ""; };
  sounding.start();
};
const hear = async () => {
  const says = run.steps.map(({ token }) => token).filter((token) => token !== END).map(name);
  answer.textContent = voice ? "" : "The voice is being fetched.";
  hearing.dataset.state = "waits";
  try {
    if (!live) throw new Error("a page opened from the disk may fetch nothing");
    if (!window.AudioContext) throw new Error("this browser has no AudioContext");
    speakers ??= new AudioContext();                                  // now: a browser wants a press before a sound
    speakers.resume();
    voice ??= loadVoice();
    const { samples, rate, unknown } = (await voice).say(says);
    answer.textContent = "";
    playSamples(samples, rate);
    if (unknown.length) answer.textContent = `The voice has no sound for ${unknown.join(" and ")}, and leaves it out.`;
  } catch (error) {
    voice = null;                                                     // the next press asks again
    hearing.dataset.state = "";
    answer.textContent = `The voice cannot be heard (${error.message}). Everything else works without it.`;
  }
};

// ---- Runs: the model's, or as they were recorded ----
const drawn = (p) => {
  let rest = Math.random(), token = 0;
  for (; token < p.length - 1 && rest >= p[token]; token++) rest -= p[token];
  return token;
};
const choose = (logits, position) => forced[position]
  ?? (temperature ? drawn(softmax([...logits])) : model.greedy(logits));
const computed = () => {
  const steps = model.generate(model.net, model.net.encode(word.letters), { choose, hidden: covered });
  const plain = [...steps].map((step) => ({ ...step, logits: [...step.logits] }));
  return { source: [...word.letters, data.end], steps: plain };
};
const recorded = () => {
  const position = forced.length - 1, other = word.other?.[`${position}:${forced[position]}`];
  return other ? { ...word, steps: [...word.steps.slice(0, position), ...other] } : word;
};
const again = () => {
  const here = at;
  run = typed() ? computed() : recorded();
  walk.reset(run.steps.length);
  walk.go(Math.min(here, run.steps.length - 1) + 1);
};
const begin = (next, moving) => {
  stop();
  [word, forced, covered, at, told] = [next, [], [], 0, false];
  delete scene.dataset.old;
  for (const one of words.querySelectorAll("button")) one.setAttribute("aria-pressed", one.textContent === word.name);
  again();
  if (moving) start(); else walk.go(run.steps.length);
};

// ---- The picture ----
const letters = el("div", { class: "tiles", role: "group", "aria-label": "letters" });
const arcs = el("svg:svg", { class: "arcs", "aria-hidden": "true" });
const sounds = el("div", { class: "tiles", role: "group", "aria-label": "what it says" });
const scene = el("div", { class: "scene" }, letters, arcs, sounds);
const candidates = el("div", { class: "candidates", role: "group", "aria-label": "candidates at this step" });
const line = status(), table = el("table", { class: "shade" });
const looked = ({ attention }) => {
  const [layer, head] = view, heads = layer === null ? attention.flat() : attention[layer];
  return head === null ? mean(heads) : heads[head];
};
const viewName = ([layer, head]) => (layer === null ? "all layers and heads, mean"
  : `layer ${layer}, ${head === null ? "mean of its heads" : `head ${head}`}`);

const button = (inside, act, attributes) => el("button", { type: "button", onclick: act, ...attributes }, ...inside);
const drawLetters = () => letters.replaceChildren(...run.source.map((letter, i) => {
  if (!typed()) return el("span", { class: "tile letter" }, letter);
  const flip = () => {
    const last = !covered[i] && run.source.every((_, j) => j === i || covered[j]);
    answer.textContent = last ? "One of them has to stay open: there would be nothing to look at." : "";
    if (last) return;
    covered[i] = !covered[i];
    again();
    letters.children[i].focus();
  };
  return button([letter], flip, { class: "tile letter", "aria-pressed": Boolean(covered[i]), title: "cover it" });
}));
const doubtful = (i) => {                                             // an end in the middle of a long word
  const { logits, token } = run.steps[i], { letters: long, end: sure } = data.doubt;
  return token === END && i >= forced.length && run.source.length - 1 > long && softmax(logits, 1)[END] < sure;
};
const drawSounds = () => sounds.replaceChildren(...run.steps.map(({ token }, i) => (i > at
  ? el("span", { class: "tile sound later", "aria-hidden": "true" }, told ? name(token) : "·")
  : button([name(token)], () => { stop(); walk.go(i + 1); sounds.children[i].focus(); },
    { class: `tile sound${doubtful(i) ? " doubtful" : ""}`, "aria-current": i === at ? "step" : null }))));
const drawArcs = () => {
  const left = scene.getBoundingClientRect().left, tall = arcs.clientHeight;
  const middle = (tile) => { const box = tile.getBoundingClientRect(); return box.left - left + box.width / 2; };
  const bend = (from, to) => `M${from} ${tall}C${from} ${tall / 2} ${to} ${tall / 2} ${to} 0`;
  arcs.replaceChildren(...run.steps.slice(0, at + 1).flatMap((step, i) => looked(step).flatMap((weight, j) => {
    if (weight < (i === at ? 0.02 : 0.25)) return [];
    const d = bend(middle(sounds.children[i]), middle(letters.children[j]));
    return el("svg:path", { d, class: i === at ? "now" : "past", "stroke-width": 1 + 11 * weight });
  })));
};
// Of a word that nobody typed only what was recorded can be taken: the run itself, and one other choice in it.
const canTake = (token) => {
  if (typed() || token === run.steps[at].token) return true;
  if (forced.length && at >= forced.length) return false;
  return token === word.steps[at].token || Boolean(word.other[`${at}:${token}`]);
};
const take = async (token) => {
  stop();
  if (token === run.steps[at].token) return;
  if (!canTake(token)) {                                              // not recorded: the model has to say it
    const mine = ++asked, before = run.steps.map((step) => step.token);
    if (!live) return;
    try { await fetchModel(); } catch (error) { answer.textContent = error.message; }
    if (!model || mine !== asked) return;
    word = { name: word.name, letters: model.net.lettersOf(word.name) };
    forced = before.slice(0, at);
    again();
  }
  told = true;
  const itself = !typed() && token === word.steps[at].token;
  forced = itself ? [] : [...run.steps.slice(0, at).map((step) => step.token), token];
  again();
  candidates.querySelector('[aria-pressed="true"]').focus();
};
const drawCandidates = () => {
  const { logits, token } = run.steps[at], p = softmax(logits), some = best(p).slice(0, 6);
  if (!some.includes(token)) some[5] = token;
  candidates.replaceChildren(...some.map((each) => {
    const level = el("span", { class: "level", "aria-hidden": "true" });
    level.style.setProperty("--p", p[each]);
    const inside = [el("span", { class: "tile sound" }, name(each)), level, el("span", null, shown(p[each]))];
    const state = { class: "candidate", "aria-pressed": each === token, "aria-disabled": !(live || canTake(each)) };
    return button(inside, () => take(each), state);
  }));
};
const drawTable = () => {
  const heading = (text) => el("th", { scope: "col" }, text), cell = (weight, i, row) => {
    const td = el("td", { class: i === largest(row) ? "lit" : null }, weight.toFixed(2));
    td.style.setProperty("--w", weight);
    return td;
  };
  table.replaceChildren(el("caption", null, `Cross-attention, ${viewName(view)}`),
    el("thead", null, el("tr", null, ...["token", "probability", ...run.source].map(heading))),
    el("tbody", null, ...run.steps.map((step) => el("tr", null, el("th", { scope: "row" }, name(step.token)),
      el("td", null, shown(softmax(step.logits)[step.token])), ...looked(step).map(cell)))));
};
const inWords = () => {
  const { logits, token } = run.steps[at], p = softmax(logits), row = looked(run.steps[at]), letter = largest(row);
  const before = run.steps.slice(0, at).map((step) => name(step.token)).join(" "), after = before && `after ${before} `;
  const who = at === forced.length - 1 ? "you chose" : temperature && typed() ? "it draws" : "it says";
  const asIn = data.as_in[name(token)], what = token === END ? "that the word has ended" : name(token);
  const heated = temperature ? ` at temperature ${temperature}` : "";
  const [first, second, third] = best(p), is = (each) => `${name(each)} ${shown(p[each])}`;
  const others = token === first ? `the next most probable are ${is(second)} and ${is(third)}`
    : `the most probable is ${is(first)}`;
  const stuck = at === run.steps.length - 1 && token !== END ? " No position is left: it found no end." : "";
  const cut = doubtful(at) ? ` So long a word that ends with less than ${data.doubt.end} is seldom whole: it may have stopped too early.` : "";
  return `Step ${at + 1} of ${run.steps.length}: ${after}${who} ${what}${asIn ? `, as in ${asIn}` : ""}, `
    + `probability ${shown(p[token])}${heated}; ${others}. `
    + `It looks most at ${run.source[letter]}, weight ${row[letter].toFixed(2)} (${viewName(view)}).${stuck}${cut}`;
};
const follow = () => {                                                // a long word scrolls with its step
  const box = scene.parentNode.getBoundingClientRect(), tile = sounds.children[at].getBoundingClientRect();
  const hidden = tile.left < box.left || tile.right > box.right;
  if (hidden) scene.parentNode.scrollLeft += tile.left - box.left - box.width / 2;
};
const redraw = () => {
  for (const part of [drawLetters, drawSounds, drawCandidates, drawTable, follow, drawArcs]) part();
  if (forced.length || covered.some(Boolean)) settings.append(undo); else undo.remove();
  line.textContent = inWords();
};

// ---- What can be done ----
const walk = stepper("step", (n) => { at = n; redraw(); });
const play = button([], () => (playing ? stop() : start()), { class: "play" });
const label = () => { play.textContent = playing ? "pause" : `play ${pace}`; };
const stop = () => { clearTimeout(playing); playing = 0; label(); };
const start = () => {
  told = false;
  if (at === run.steps.length - 1) walk.go(1);
  const wait = () => { playing = setTimeout(tick, PACES[pace]); };
  const tick = () => {
    walk.go(at + 2);
    if (at < run.steps.length - 1) wait(); else stop();
  };
  wait();
  label();
};
const byHand = ({ target }) => { if (target !== play) stop(); };
for (const part of [walk, candidates]) {
  for (const event of ["pointerdown", "keydown"]) part.addEventListener(event, byHand);
}
const hearing = button(["hear it"], hear, { class: "hear" });
walk.append(el("span", { class: "control" }, play, ...(data.live && book ? [hearing] : [])));
const PACES = { slowly: 1500, steadily: 800, quickly: 300 };        // milliseconds a step
const paces = choice("pace", Object.keys(PACES), (i) => { pace = Object.keys(PACES)[i]; label(); });
const views = [[null, null]];
for (let layer = 0; layer < data.layers; layer++) views.push([layer, null]);
for (let i = 0; i < data.layers * data.heads; i++) views.push([Math.floor(i / data.heads), i % data.heads]);
const arcsOf = choice("arcs show", views.map(viewName), (i) => { view = views[i]; redraw(); });
const heat = slider("temperature", { min: 0, max: 2, step: 0.1, value: 0 },
  (t) => (t ? t.toFixed(1) : "0, the most probable"), (t) => { temperature = t; again(); });
const undo = button(["undo what I changed"], () => {
  [forced, covered, told] = [[], [], false];
  again();
  play.focus();
});
const more = el("details", null, el("summary", null, "Pace, arcs and temperature"),
  el("div", { class: "controls" }, paces, arcsOf, heat), el("p", { class: "legend" }, "Every layer looks at the letters "
    + "with several heads. At temperature 0 the most probable is taken; above it a token is drawn, the hotter the wilder."));
const settings = el("div", { class: "controls" }, more);
const box = el("input",
  { type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false", maxlength: 80 });
box.addEventListener("input", () => fetchModel().catch((error) => { answer.textContent = error.message; }));
const examples = data.words.map((each) => button([each.name], () => {
  asked++;
  box.value = answer.textContent = "";
  begin(each, false);
}, { "aria-pressed": each === word }));
const words = el("div", { class: "control words", role: "group", "aria-label": "words" },
  live ? "or" : "word", ...examples);
const typing = live
  ? [el("label", { class: "control" }, "a word", box), el("button", { type: "submit" }, "say it")] : [];
const submitted = (event) => { event.preventDefault(); ask(box.value); };
const form = el("form", { class: "controls", onsubmit: submitted }, ...typing, words, progress);
const legend = el("p", { class: "legend" }, `${[
  "Square tiles are letters, round ones sounds.",
  Object.keys(data.as_in).length
    ? "Sounds are written in ARPAbet; a digit is a vowel's stress: 1 strong, 2 weaker, 0 none." : "",
  `${data.end} is the end of the word.`,
  "The thicker an arc, the more that sound looks at that letter.",
].filter(Boolean).join(" ")} `, todo("Press another candidate, and see what would follow."
  + (live ? " In a word that you typed, press a letter to cover it." : "")));
stage.append(form, answer, scroll({ "aria-label": "letters, arcs and sounds" }, scene), walk, candidates, settings, line, legend,
  el("details", null, el("summary", null, "All steps as a table"), scroll({ "aria-label": "all steps as a table" }, table)));
paces.querySelector("select").selectedIndex = 1;
arcsOf.querySelector("select").selectedIndex = data.layer === null ? 0 : data.layer + 1;
label();
heat.move();
walk.go(run.steps.length);
new ResizeObserver(() => { drawArcs(); follow(); }).observe(scene);
if (data.plays && motion()) start();
