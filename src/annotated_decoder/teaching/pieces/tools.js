// el("p", {class: "x"}, "text", node): an element with children; strings go in as text. "svg:rect" makes SVG.
const el = (tag, attributes, ...children) => {
  const svg = tag.startsWith("svg:") && "http://www.w3.org/2000/svg";
  const node = svg ? document.createElementNS(svg, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

// A sentence on what a reader can do with a piece; on paper it is left out.
const todo = (text) => el("span", { class: "todo" }, text);

// A line that says in words what is seen; set its textContent. Screen readers read it whenever it changes.
const status = () => el("p", { class: "status", role: "status", "aria-live": "polite" });

// A list to choose from; change(index).
const choice = (label, options, change) => {
  const select = el("select", { autocomplete: "off", onchange: () => change(select.selectedIndex) });
  select.append(...options.map((option) => el("option", null, option)));
  return el("label", { class: "control" }, label, select);
};

// A box to tick, not ticked at first; change(ticked).
const toggle = (label, change) => {
  const box = el("input", { type: "checkbox", autocomplete: "off", onchange: () => change(box.checked) });
  return el("label", { class: "control" }, box, label);
};

// A box that scrolls to the side where what is in it is wide; an edge behind which there is more fades.
const scroll = (attributes, inside) => {
  const box = el("div", { class: "scroll", tabindex: 0, role: "region", ...attributes }, inside);
  const fade = () => {
    const { scrollLeft: left, scrollWidth, clientWidth } = box;
    for (const [side, hidden] of Object.entries({ left, right: scrollWidth - clientWidth - left })) {
      box.style.setProperty(`--${side}`, hidden > 4 ? "2.5rem" : "0px");
    }
  };
  box.addEventListener("scroll", fade);
  const observer = new ResizeObserver(fade);
  for (const one of [box, inside]) observer.observe(one);
  return box;
};

// A slider; words(value) stands beside it and is read aloud; change(value). Call its move() once to begin.
const slider = (label, { min, max, step = 1, value = min }, words, change) => {
  const shown = el("span", { "aria-hidden": "true", class: "value" });
  const input = el("input", { type: "range", autocomplete: "off", min, max, step, value, oninput: () => move() });
  const move = () => {
    shown.textContent = words(+input.value);
    input.setAttribute("aria-valuetext", shown.textContent);
    change(+input.value);
  };
  return Object.assign(el("label", { class: "control" }, label, input, shown), { input, move });
};

// Buttons and a slider for steps; change(n), n from 0. Call its reset(count) to begin, and whenever count changes;
// its go(n), n from 1, steps as the buttons do.
const stepper = (label, change) => {
  let count = 1;
  const bar = slider(label, { min: 1, max: 1 }, (n) => `${n} of ${count}`, (n) => {
    for (const [i, button] of buttons.entries()) button.setAttribute("aria-disabled", n === (i < 2 ? 1 : count));
    change(n - 1);
  });
  const go = (n) => { bar.input.value = n; bar.move(); };          // the slider keeps n in its range
  const by = (n) => () => +bar.input.value + n;
  const moves = { first: () => 1, back: by(-1), next: by(1), last: () => count };
  const buttons = Object.entries(moves).map(
    ([name, where]) => el("button", { type: "button", onclick: () => go(where()) }, name));
  const keys = { Home: moves.first, ArrowLeft: moves.back, ArrowRight: moves.next, End: moves.last };
  const onkeydown = (event) => {                                    // on a button; the slider has keys of its own
    if (event.target === bar.input || !keys[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(keys[event.key]());
  };
  const all = el("div", { class: "controls", role: "group", "aria-label": label, onkeydown }, ...buttons, bar);
  return Object.assign(all, { go, reset: (n) => { bar.input.max = count = n; go(1); } });
};
