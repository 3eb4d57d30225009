// Names for controls that the theme leaves without one, for those who listen to a page.
document.addEventListener("DOMContentLoaded", () => {
  const each = (selector, act) => document.querySelectorAll(selector).forEach(act);
  each(".theme-switch-button i, .theme-switch-button svg", (icon) => icon.setAttribute("aria-hidden", "true"));
  each('details > summary[aria-label="Toggle hidden content"]', (summary) => summary.removeAttribute("aria-label"));
  each("nav.bd-links li > details > summary", (summary) => {
    summary.setAttribute("aria-label", `Pages below ${summary.closest("li").querySelector("a").textContent.trim()}`);
  });
  each(".search-button-field", (button) => button.removeAttribute("aria-label"));
  each("#pst-primary-sidebar", (bar) => { bar.setAttribute("role", "complementary"); bar.setAttribute("aria-label", "Book"); });
  each("figure:has(> .wide-plot)", (box) => { if (getComputedStyle(box).overflowX === "auto") box.tabIndex = 0; });
  each('.citation-list[role="list"], [role="doc-biblioentry"]', (item) => item.removeAttribute("role"));
});

// On paper everything is light and open: theme and folds are put back afterwards.
const onScreen = { theme: null, folded: [] };
addEventListener("beforeprint", () => {
  const root = document.documentElement;
  onScreen.theme = root.dataset.theme;
  onScreen.folded = [...document.querySelectorAll("article details:not([open])")];
  root.dataset.theme = "light";
  for (const fold of onScreen.folded) fold.open = true;
});
addEventListener("afterprint", () => {
  document.documentElement.dataset.theme = onScreen.theme;
  for (const fold of onScreen.folded) fold.open = false;
});

// A chapter that was read to its end is ticked in the contents; this stays in the reader's browser.
document.addEventListener("DOMContentLoaded", () => {
  const key = "annotated-decoder-read", page = (address) => new URL(address, location.href).pathname.split("/").pop();
  let read;
  try { read = new Set(JSON.parse(localStorage.getItem(key) ?? "[]")); } catch { return; }    // none is kept here
  const links = [...document.querySelectorAll("nav.bd-links a")];
  const tick = () => {
    for (const link of links) {
      if (!read.has(page(link.href)) || link.querySelector(".was-read")) continue;
      const mark = document.createElement("span");
      mark.className = "was-read";
      mark.textContent = " ✓";
      mark.setAttribute("aria-label", "read");
      mark.setAttribute("role", "img");
      link.append(mark);
    }
  };
  tick();
  const end = document.querySelector(".prev-next-area, .prev-next-footer");
  if (!end || !/^[\dA]\d_/.test(page(location.href))) return;
  new IntersectionObserver(([seen], observer) => {
    if (!seen.isIntersecting) return;
    observer.disconnect();
    read.add(page(location.href));
    try { localStorage.setItem(key, JSON.stringify([...read])); } catch { return; }
    tick();
  }).observe(end);
});
