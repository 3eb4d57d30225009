"""The book in one file: its order, its bookmarks, and what a page becomes in it; `tests/pages` prints and zips."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import paper  # noqa: E402
from paper import Article, Heading, Mark  # noqa: E402

TOC = yaml.safe_load("""
root: book/index
parts:
  - caption: Reading
    chapters: [{file: notebooks/01_a, title: "1 · A"}, {file: notebooks/02_b, title: "2 · B"}]
  - caption: Beside
    chapters:
      - file: book/reference
        sections: [{file: book/api/index, sections: [{file: book/api/check}]}, {file: book/glossary}]
      - file: book/workshop
        sections: [{file: book/rooms/check, sections: [{file: notebooks/check/laws}]}]
""")
PAGES = paper.pages(TOC)
PAGE = """<html><body><p>a bar</p><article><section id="b"><h1>B<a class="headerlink" href="#b">#</a></h1>
<p><a href="https://x.org/c"><img alt="Open in Colab" src="../_images/c.svg"></a>
<img alt="a b" src="../_images/d.png"></p>
<p>See <a href="#two">two</a>, <a href="01_a.html">A</a>, <a href="../book/api/check.html#f">f</a>,
<a href="check/laws.html#g">laws</a>, <a href="https://arxiv.org">it</a>.</p>
<details class="admonition hide"><summary><p class="collapsed">Solution</p><p class="expanded">Solution</p></summary>
<pre><span></span><span class="k">def</span><span class="w"> </span><span class="n">f</span></pre></details>
<section id="two"><h2>Two &amp; more</h2><h4>deep</h4></section>
<div class="scroll" tabindex="0" role="region" aria-label="x"><svg viewBox="0 0 1 1"><linearGradient/></svg></div>
<figure class="annotated-piece" data-piece="0a"><style>.p { & b { top: 0 } }</style><div class="still">still</div>
<script>run()</script></figure><math><mi>x</mi></math></section></article></body></html>"""


def article(address):
    return paper.article(PAGES[1], PAGE, address, lambda path: f"pictures/{path}")


def test_the_order_is_that_of_the_contents_and_the_workshop_is_left_out():
    assert [(page.path, page.part, page.depth) for page in PAGES] == [
        ("notebooks/01_a", "Reading", 0), ("notebooks/02_b", "Reading", 0), ("book/reference", "Beside", 0),
        ("book/api/index", "Beside", 1), ("book/api/check", "Beside", 2), ("book/glossary", "Beside", 1),
    ]  # fmt: skip
    assert [page.key for page in PAGES[1:4]] == ["02_b", "reference", "api-index"]


def test_the_book_holds_every_chapter_and_no_two_pages_have_one_key():
    found = paper.pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    first, *others = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    ours = [page.key for page in found if re.match(r"notebooks/[\dA]\d_", page.path)]
    assert ours == [first, "A0_primer", *others]
    assert len({page.key for page in found}) == len(found) > 20
    assert not [page for page in found if "rooms" in page.path or page.path == "book/workshop"]


def test_bookmarks_are_parts_their_pages_and_the_headings_of_these():
    def one(page, *below):
        return Article(page, f"#{page.key}", None, [Heading(1, page.key.upper(), f"#{page.key}--top"), *below])

    listed = paper.marks([one(PAGES[0], Heading(2, "s", "#01_a--s"), Heading(3, "t", "#01_a--t")), one(PAGES[1]),
                          one(PAGES[2]), one(PAGES[3], Heading(2, "u", "#api-index--u"))])    # fmt: skip
    assert listed == [
        Mark(0, "part", "Reading", "#01_a"), Mark(1, "page", "01_A", "#01_a"), Mark(2, "section", "s", "#01_a--s"),
        Mark(3, "below", "t", "#01_a--t"), Mark(1, "page", "02_B", "#02_b"), Mark(0, "part", "Beside", "#reference"),
        Mark(1, "page", "REFERENCE", "#reference"), Mark(2, "page", "API-INDEX", "#api-index"),
        Mark(3, "section", "u", "#api-index--u"),
    ]  # fmt: skip
    text = paper.contents(listed, {"#01_a": 5, "#01_a--s": 7, "#01_a--t": 8})
    assert re.findall(r'href="(.*?)".*?number">(\d+)', text)[:2] == [("#01_a", "5"), ("#01_a--s", "7")]
    assert "#01_a--t" not in text and text.count('class="part"') == 2


def test_the_contents_of_an_epub_are_nested_as_the_book_is():
    kinds = {0: "part", 1: "page", 2: "section", 3: "below"}
    listing = [(0, "P"), (1, "A & B"), (2, "s"), (3, "t"), (1, "C"), (0, "Q"), (2, "D"), (0, "R")]
    tree = ET.fromstring(paper.navigation([Mark(depth, kinds[depth], words, "x") for depth, words in listing]))

    def listed(ol):
        return [(li[0].text, *(listed(inner) for inner in li.findall("ol"))) for li in ol]

    assert listed(tree) == [("P", [("A & B", [("s",)]), ("C",)]), ("Q", [("D",)]), ("R",)]


def test_a_page_on_paper_has_nothing_that_only_a_screen_can_do():
    one = article(paper.in_one_document(PAGES))
    assert not one.body.select("script, details, summary, .headerlink, [tabindex], [role], [alt='Open in Colab']")
    assert one.body.h1.string == "2 · B" and one.body.select_one("img")["src"] == "pictures/_images/d.png"
    fold = one.body.select_one(".fold")
    assert fold.p.get_text() == "Solution" and fold.pre.decode_contents() == '<span class="k">def</span> f'
    assert one.body.select_one(".moves a")["href"] == f"{paper.SITE}notebooks/02_b.html"
    assert one.headings == [Heading(1, "2 · B", "#02_b--b"), Heading(2, "Two & more", "#02_b--two")]
    assert [place["id"] for place in one.body.select("[id]")] == ["02_b--b", "02_b--two"]


@pytest.mark.parametrize("where, inside", [
    (paper.in_one_document, ["#02_b--two", "#01_a", "#api-check--f"]),
    (paper.in_files, ["02_b.xhtml#two", "01_a.xhtml", "api-check.xhtml#f"]),
])  # fmt: skip
def test_links_lead_inside_where_the_book_has_the_page_and_to_the_site_elsewhere(where, inside):
    links = [link["href"] for link in article(where(PAGES)).body.select("p:not(.moves) > a")]
    assert links == [*inside, f"{paper.SITE}notebooks/check/laws.html#g", "https://arxiv.org"]
    assert where(PAGES[:1])("notebooks/02_b", "two") is None


def test_an_article_is_xml_with_the_names_that_svg_and_mathml_have():
    body = article(paper.in_files(PAGES)).body
    body.select_one("style").extract()    # which gets a file
    tree = ET.fromstring(paper.as_xml(body))
    (drawn,) = tree.iter("{http://www.w3.org/2000/svg}svg")
    assert drawn.get("viewBox") == "0 0 1 1" and drawn[0].tag.endswith("}linearGradient")
    assert next(tree.iter("{http://www.w3.org/1998/Math/MathML}math"))[0].text == "x"


def test_nested_rules_are_written_one_after_another():
    css = """.a.a { top: 0; --x: 1; & b, & i { left: 0 } /* & } */
      @media (width < 9px) { & p { right: 0; } } .c { & u { top: 1px } } }"""
    assert " ".join(paper.unnested(css).split()) == (
        ".a.a { top: 0; --x: 1; } .a.a b, .a.a i { left: 0; } @media (width < 9px) { .a.a p { right: 0; } } "
        ".a.a .c u { top: 1px; }"
    )
