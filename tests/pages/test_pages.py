"""The built pages in a real browser: complete without a network, quiet, and open to keyboard and screen reader.

They need the built book and Debian's Chromium; `browsing` says what happens where there is none.
"""

import re

import pytest
from browsing import HTML, PAGES, listen, turn, violations
from pypdf import PdfReader

ONE_OF_EACH_COLOUR = """() => {    // code has thousands of coloured words; of each colour one a page is enough
  const seen = new Set();
  document.querySelectorAll(".highlight pre span[class], .sig span[class]").forEach(word => {
    const kind = word.parentElement?.className + " > " + word.className;
    seen.has(kind) ? word.replaceWith(word.textContent) : seen.add(kind);
  });
}"""


@pytest.fixture(scope="module")
def tab(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    yield context.new_page()
    context.close()


def test_every_page_of_the_contents_is_looked_at():
    contents = (HTML.parents[1] / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"^ *(?:- file|root): (\S+)$", contents, re.M)
    assert len(listed) > 40 and {f"{name}.html" for name in listed} <= set(PAGES)


def test_every_link_to_a_term_finds_its_entry():
    entries = re.findall(r'<dt id="(term-[^"]+)"', (HTML / "book/glossary.html").read_text(encoding="utf-8"))
    texts = ((HTML / page).read_text(encoding="utf-8") for page in PAGES)
    asked = {term for text in texts for term in re.findall(r'glossary\.html#(term-[^"]+)"', text)}
    assert len(asked) > 20 and asked <= {*entries} and len({*entries}) == len(entries)


def fits(tab, width):
    "Nothing is wider than the page, or has to be scrolled sideways to be read; each drawing says what it shows."
    assert (found := tab.evaluate("document.documentElement.scrollWidth")) <= width, f"the page is {found} px wide"
    tab.evaluate("""for (const fold of document.querySelectorAll("article details"))
      if (fold.querySelector("svg[role=img]")) fold.open = true;""")    # an answer may be a drawing
    # A piece's own pictures are told by its status line, which tests/pages/test_interactive.py listens to.
    diagrams = tab.locator("article svg[role=img]:not(.annotated-piece svg)").evaluate_all("""all => all.map(svg => {
      const [own, box] = [svg.getBoundingClientRect(), svg.parentElement.getBoundingClientRect()];
      const free = getComputedStyle(svg.parentElement).overflowX === "auto" && svg.parentElement.tabIndex === 0;
      return [svg.ariaLabel || "", own.width > 50 && svg.checkVisibility(), own.width <= box.width + 1 || free];
    })""")
    assert [label for label, shown, fits in diagrams if len(label.split()) < 5 or not (shown and fits)] == []
    label = "10 / 72 * 110 * plot.getBoundingClientRect().width / plot.naturalWidth"    # 10 points, 110 dots an inch
    small = tab.locator("article .cell_output img").evaluate_all(f"""all => all
      .filter(plot => plot.checkVisibility() && {label} < 9.9).map(plot => plot.alt)""")
    assert small == [], "plots whose labels are smaller than 10 pixels"
    cut = tab.locator("article .cell_input pre").evaluate_all("""all => all
      .filter(code => code.checkVisibility() && code.scrollWidth > code.clientWidth + 1)
      .map(code => code.textContent.slice(0, 100))""")
    assert cut == [], "code that has to be scrolled sideways"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_complete_quiet_and_accessible(tab, site, page):
    "Light, dark, and as wide as a telephone."
    tab.set_viewport_size({"width": 1280, "height": 900})
    complaints, stop = listen(tab)
    tab.goto(site + page)
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    pictures = tab.locator("article img").evaluate_all("all => all.map(i => [i.src, i.alt, i.naturalWidth])")
    assert [src for src, alt, _ in pictures if len(alt.split()) < 2] == [], "they do not say what they show"
    assert [src for src, _, width in pictures if not width] == [], "they are not shown"
    fits(tab, 1280)
    stop()                                                  # axe asks for styles on its own, and not where they are
    tab.evaluate(ONE_OF_EACH_COLOUR)
    found = violations(tab)
    turn(tab, "dark")
    found += violations(tab, rules=["color-contrast"])
    turn(tab, "light")
    tab.set_viewport_size({"width": 390, "height": 900})
    fits(tab, 390)
    found += violations(tab, rules=["target-size"])
    assert found + complaints == [], "\n".join(found + complaints)


SCROLLING = """() => [...document.querySelectorAll("article *")].filter(
  e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX === "auto").length"""


def test_a_page_runs_its_own_scripts_and_no_other(browser, site):
    "A script that got into a page, an element's handler, and one from another host are refused; the page works."
    tab = browser.new_page()
    page = "notebooks/03_cross_attention.html"
    bad = '<script>got = 1</script><img src="data:," onerror="got = 2"><script src="data:,got=3"></script>'
    text = (HTML / page).read_text(encoding="utf-8").replace("</article>", bad + "</article>", 1)
    tab.route(f"**/{page}", lambda route: route.fulfill(body=text, content_type="text/html"))
    tab.goto(site + page)
    assert tab.evaluate("window.got") is None and tab.locator(".annotated-piece .still").count() == 0
    tab.get_by_role("button", name="Download this page").click()
    printed = tab.locator("button[onclick='window.print()']").first
    tab.evaluate("window.print = () => { window.got = 'printed' }")
    printed.dispatch_event("click")
    assert tab.evaluate("window.got") == "printed"
    tab.close()


@pytest.mark.parametrize("page", ["notebooks/12_strategies.html", "notebooks/03_cross_attention.html"])
def test_on_a_telephone_what_scrolls_is_reached_by_the_keyboard(browser, site, page):
    "The theme looks once, when a page is loaded, which of its parts scroll."
    tab = browser.new_page(viewport={"width": 390, "height": 900})
    tab.goto(site + page)
    assert tab.evaluate(SCROLLING) > 0
    assert violations(tab, rules=["scrollable-region-focusable"]) == []
    tab.close()


def test_the_dark_page_is_the_one_that_a_dark_system_gets(browser, site):
    context = browser.new_context(color_scheme="dark")
    tab = context.new_page()
    tab.goto(site + "book/index.html")
    assert tab.evaluate("[document.documentElement.dataset.theme, document.documentElement.dataset.mode]")[0] == "dark"
    look = "getComputedStyle(document.body).backgroundColor"
    was = tab.evaluate(look)
    turn(tab, "light")
    assert tab.evaluate(look) != was
    turn(tab, "dark")
    assert tab.evaluate(look) == was
    context.close()


@pytest.mark.parametrize("page", PAGES)
def test_the_keyboard_reaches_every_control(tab, site, page):
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.goto(site + page)
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


CHAPTERS = [page for page in PAGES if re.match(r"notebooks/[\dA]\d_", page)]


@pytest.mark.parametrize("page", ["book/index.html", *CHAPTERS])
def test_a_page_is_light(browser, site, page):
    "Bytes before anything is touched, uncompressed."
    context = browser.new_context(reduced_motion="reduce")
    tab, sizes = context.new_page(), {}
    tab.on("requestfinished", lambda request: sizes.update({request.url: request.sizes()["responseBodySize"]}))
    tab.goto(site + page, wait_until="networkidle")
    most = 1_000_000 if page == "book/index.html" else 1_500_000
    assert sum(sizes.values()) < most, sorted(((size, url) for url, size in sizes.items()), reverse=True)[:5]
    context.close()


def test_formulas_are_drawn_without_a_script(browser, site):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    drawn = 0
    for page in CHAPTERS:
        tab.goto(site + page)
        boxes = [formula.bounding_box() for formula in tab.locator("article math").all() if formula.is_visible()]
        assert all(box["width"] > 3 and box["height"] > 3 for box in boxes)
        assert not re.search(r"\\(frac|sqrt|mathrm|sum)\b", tab.locator("article").inner_text())
        drawn += len(boxes)
    assert drawn > 50
    context.close()


def test_every_icon_has_its_sign(browser, site):
    "The icons' fonts hold nothing but what the pages show, so each of these must be in them."
    tab = browser.new_page()
    tab.goto(site + "notebooks/03_cross_attention.html", wait_until="networkidle")
    missing = tab.evaluate("""async () => {
      await document.fonts.ready;
      const seen = new Set();
      for (const icon of document.querySelectorAll("[class*=fa-]")) {
        const { content, fontFamily, fontWeight } = getComputedStyle(icon, "::before");
        if (content !== "none" && content.length === 3) seen.add(`${fontWeight} 16px ${fontFamily}|${content[1]}`);
      }
      const alone = [...seen].filter(each => {
        const [font, sign] = each.split("|"), pen = document.createElement("canvas").getContext("2d");
        pen.font = font;
        const width = pen.measureText(sign).width;
        pen.font = "16px serif";
        return width === pen.measureText(sign).width;
      });
      return [seen.size, alone];
    }""")
    assert missing[0] > 8 and missing[1] == []
    tab.close()


def test_a_chapter_read_to_its_end_is_ticked_and_stays_so(browser, site):
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(site + "notebooks/01_encoder_outputs.html", wait_until="networkidle")
    assert tab.locator(".was-read").count() == 0
    tab.evaluate("scrollTo(0, document.body.scrollHeight)")
    tab.wait_for_selector(".was-read", state="attached")
    tab.goto(site + "book/index.html", wait_until="networkidle")
    assert tab.locator("nav.bd-links a", has=tab.locator(".was-read")).all_inner_texts() == ["1 · Encoder outputs ✓"]
    context.close()


def test_folded_code_is_on_paper(browser, site, tmp_path):
    tab = browser.new_page()
    tab.goto(site + "notebooks/09_softmax.html", wait_until="networkidle")
    tab.pdf(path=tmp_path / "page.pdf", format="A4")
    text = "".join(page.extract_text() for page in PdfReader(tmp_path / "page.pdf").pages)
    assert "from annotated_decoder" in text and "Imports" in text
    tab.close()


def test_paper_is_light_and_open_and_the_screen_is_as_before(browser, site):
    context = browser.new_context(color_scheme="dark")
    tab = context.new_page()
    tab.goto(site + "notebooks/03_cross_attention.html", wait_until="networkidle")
    folded = tab.locator("article details:not([open])").count()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print")
    assert folded > 3 and tab.locator("article details:not([open])").count() == 0
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    cut = tab.locator("article pre").evaluate_all("all => all.filter(p => p.scrollWidth > p.clientWidth + 1).length")
    assert cut == 0
    tab.emulate_media(media="screen")
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("article details:not([open])").count() == folded
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
    context.close()


@pytest.mark.parametrize("asked, page", [
    ("KV cache", "11_caching"), ("beam", "12_strategies"), ("why sqrt", "02_attention"),
    ("stop symbol", "10_generation"),
])  # fmt: skip
def test_the_search_finds_the_right_chapter_first(browser, site, asked, page):
    tab = browser.new_page()
    tab.goto(f"{site}search.html?q={asked.replace(' ', '+')}", wait_until="load")
    tab.wait_for_selector("ul.search li p, ul.search li .context")
    first = tab.locator("ul.search li").first
    assert page in first.locator("a").first.get_attribute("href")
    assert not re.search(r"\\(frac|sqrt|mathrm|sum)\b", tab.locator("ul.search").inner_text())
    tab.close()
