"""The built pages in a real browser: complete without a network, quiet, and open to keyboard and screen reader.

They need the built book and Debian's Chromium; `browsing` says what happens where there is none.
"""

import re

import pytest
from browsing import HTML, PAGES, violations, visit

ONE_OF_EACH_COLOUR = """() => {    // code has thousands of coloured words; of each colour one a page is enough
  const seen = new Set();
  document.querySelectorAll(".highlight pre span[class], .sig span[class]").forEach(word => {
    const kind = word.parentElement?.className + " > " + word.className;
    seen.has(kind) ? word.replaceWith(word.textContent) : seen.add(kind);
  });
}"""
VIEWS = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390)}


@pytest.fixture(scope="module")
def views(browser, site):
    "One tab for each theme and width, in which every request to another host is refused."
    tabs = {}
    for name, (theme, width) in VIEWS.items():
        tab = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900}).new_page()
        tab.route("**", lambda route: route.continue_() if route.request.url.startswith(site) else route.abort())
        tabs[name] = tab
    return tabs


def test_every_page_of_the_contents_is_looked_at():
    contents = (HTML.parents[1] / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ *(?:- file|root): (\S+)$", contents, re.M)
    assert len(listed) > 40 and {f"{name}.html" for name in listed} <= set(PAGES)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_complete_quiet_and_accessible(views, site, page, view):
    tab = views[view]
    assert visit(tab, site + page, "networkidle") == []
    assert tab.evaluate("document.documentElement.dataset.theme") == VIEWS[view][0]
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= VIEWS[view][1], f"the page is {width} px wide"
    pictures = tab.locator("article img").evaluate_all("all => all.map(i => [i.src, i.alt, i.naturalWidth])")
    assert [src for src, alt, _ in pictures if len(alt.split()) < 2] == [], "they do not say what they show"
    assert [src for src, _, width in pictures if not width] == [], "they are not shown"
    diagrams = tab.locator("article svg[role=img]").evaluate_all("""all => all.map(svg => {
      const [own, box] = [svg.getBoundingClientRect(), svg.parentElement.getBoundingClientRect()];
      const free = getComputedStyle(svg.parentElement).overflowX === "auto" && svg.parentElement.tabIndex === 0;
      return [svg.ariaLabel || "", own.width > 50 && svg.checkVisibility(), own.width <= box.width + 1 || free];
    })""")
    assert [label for label, shown, fits in diagrams if len(label.split()) < 5 or not (shown and fits)] == []
    tab.evaluate(ONE_OF_EACH_COLOUR)
    found = violations(tab)
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("page", PAGES)
def test_the_keyboard_reaches_every_control(views, site, page):
    tab = views["light"]
    visit(tab, site + page)
    # Number what can be seen and used, then press Tab until the page has been walked through.
    wanted = tab.evaluate("""() => {
      const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary")];
      const usable = all.filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled);
      usable.forEach((e, i) => e.dataset.number = i);
      document.addEventListener("focusin", e => { if (e.target.dataset.number) e.target.dataset.reached = 1; });
      return usable.length;
    }""")
    for n in range(2 * wanted + 20):
        tab.keyboard.press("Tab")
        if n % 10 == 9 and tab.locator("[data-number]:not([data-reached])").count() == 0:
            break
    left = tab.locator("[data-number]:not([data-reached])").evaluate_all("""all => all
      .filter(e => e.checkVisibility({visibilityProperty: true}))    // a section of the contents may have folded
      .map(e => e.outerHTML.slice(0, 200))""")
    assert wanted > 10 and left == []
