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
  each('.citation-list[role="list"], [role="doc-biblioentry"]', (item) => item.removeAttribute("role"));
});
