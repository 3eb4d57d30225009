"""The book in one file, made from the pages that `make book` built: `paper.py pdf` for paper, `paper.py epub`.

Both hold the chapters and the reference, in the order of `_toc.yml`; the workshop and the first page stay on the site,
and links to them lead there. Folds are open, no script runs, and an interactive piece is its still form.
"""

import argparse
import datetime
import html
import logging
import os
import posixpath
import re
import shutil
import sys
import time
import tomllib
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import Fit

ROOT = Path(__file__).resolve().parent.parent
HTML, TOOLS = ROOT / "_build" / "html", ROOT / "tools"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
TITLE, AUTHOR, REPOSITORY = CONFIG["title"], CONFIG["author"], CONFIG["repository"]["url"]
SITE = re.sub(r"https://github\.com/([^/]+)/(.+)", r"https://\1.github.io/\2/", REPOSITORY)
WORKSHOP = "book/workshop"
# Words of code that have the colour of text: spans that nothing needs.
PLAIN = ", ".join(f"pre span.{kind}" for kind in "n p w nn nx pm".split()) + ", pre > span:empty"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


# What the book holds, and in which order


@dataclass(frozen=True)
class Page:
    """A page of the book: where it was built, its title in the contents if it has one there, and its part."""

    path: str
    title: str | None
    part: str
    depth: int = 0    # below the part

    @property
    def key(self) -> str:
        "Its name within the one file: `03_cross_attention`, `api-index`."
        return self.path.split("/", 1)[1].replace("/", "-")


def pages(toc: dict) -> list[Page]:
    "The pages of a `_toc.yml` in reading order, without its root and the workshop."

    def below(entries, part, depth):
        for entry in entries:
            if entry["file"] != WORKSHOP:
                yield Page(entry["file"], entry.get("title"), part, depth)
                yield from below(entry.get("sections", []), part, depth + 1)

    return [page for part in toc["parts"] for page in below(part["chapters"], part["caption"], 0)]


def built(path: str) -> str:
    "The HTML of a page. Exits where it is not built."
    file = HTML / f"{path}.html"
    if not file.exists():
        sys.exit(f"{file} is not there; build the book first: make book")
    return file.read_text(encoding="utf-8")


# One page


@dataclass(frozen=True)
class Heading:
    """A line of the contents, or a bookmark: 1 is a page's title."""

    level: int
    words: str
    address: str


@dataclass(frozen=True)
class Article:
    """What a page says, and its headings; addresses in it are those of the one file."""

    page: Page
    address: str
    body: object
    headings: list[Heading]


def article(page: Page, text: str, address, picture) -> Article:
    """A built page's article with nothing that only a screen can do.

    `address(path, id)` says where a place of the site is in the one file, or None where it is not in it;
    `picture(path)` says where a picture is.
    """
    soup = BeautifulSoup(text, "html.parser")
    body = soup.find("article")
    for idle in body.select("script, button, .asleep, a.headerlink, a:has(> img[alt='Open in Colab'])"):
        idle.decompose()
    for word in body.select(PLAIN):
        word.unwrap()
    for box in body.select("[tabindex]"):    # what could be scrolled
        del box["tabindex"]
        box.attrs.pop("role", None)
        box.attrs.pop("aria-label", None)
    for item in body.select('[role="doc-biblioentry"], .citation-list[role="list"]'):    # as in book.js
        del item["role"]
    unfold(soup, body)
    for piece in body.select("figure.annotated-piece"):
        link = f'<a href="{SITE}{page.path}.html">its page</a>'
        words = f'<p class="moves">It stands still here, and moves on {link}.</p>'
        piece.append(BeautifulSoup(words, "html.parser"))
    title = body.find("h1")
    if page.title:
        title.string = page.title
    for link in body.select("a[href]"):
        link["href"] = lead(page, link["href"], address)
    for shown in body.select("img[src]:not([src^='http'], [src^='data:'])"):
        shown["src"] = picture(posixpath.normpath(posixpath.join(posixpath.dirname(page.path), shown["src"])))
    body.smooth()
    headings = []
    for heading in body.select("h1, h2, h3"):
        place = heading.find_parent("section")["id"]
        headings.append(Heading(int(heading.name[1]), " ".join(heading.get_text().split()), address(page.path, place)))
    for place in body.select("[id]"):
        place["id"] = address(page.path, place["id"]).partition("#")[2]
    return Article(page, address(page.path, ""), body, headings)


def unfold(soup, body) -> None:
    "Make every fold an open box under its title."
    for fold in body.select("details"):
        words = fold.summary.find("p") or fold.summary
        title = soup.new_tag("p", attrs={"class": "fold-title"})
        title.string = words.get_text().strip()
        fold.summary.replace_with(title)
        fold.name, fold.attrs = "div", {"class": "fold"}


def lead(page: Page, href: str, address) -> str:
    "Where a link leads from the one file: within it, to the site, or away as before."
    if re.match(r"[a-z]+:", href):
        return href
    path, _, place = href.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), path)) if path else f"{page.path}.html"
    return address(target.removesuffix(".html"), place) or SITE + target + (f"#{place}" if place else "")


def facts() -> dict[str, str]:
    "What the title page tells."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = (ROOT / "src" / "annotated_decoder" / "__init__.py").read_text(encoding="utf-8")
    return {"about": project["description"], "version": re.search(r'__version__ = "(.*)"', version)[1]}


def title_page() -> str:
    told = facts()
    drawing = (ROOT / "book" / "_static" / "loop.svg").read_text(encoding="utf-8")
    name = "The decoder’s loop: the chosen token joins those so far"
    drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
    return f"""<div class="title-page"><h1>{TITLE}</h1>
<p class="about">{html.escape(told["about"])}.</p>
{drawing}
<p class="by">{html.escape(AUTHOR)}</p>
<p class="version">Version {told["version"]} · <a href="{SITE}">{SITE.removeprefix("https://").rstrip("/")}</a></p>
</div>"""


# Paper


@dataclass(frozen=True)
class Mark:
    """A bookmark, and a line of the contents: how deep, a part, a page, a section or below one, its words, where."""

    depth: int
    kind: str
    words: str
    address: str


def marks(articles: list[Article]) -> list[Mark]:
    "Parts, their pages, and the headings of these, in reading order."
    found, part = [], None
    for one in articles:
        title, *below = one.headings
        if one.page.part != part:
            part = one.page.part
            found.append(Mark(0, "part", part, one.address))
        depth = 1 + one.page.depth
        found.append(Mark(depth, "page", title.words, one.address))
        for heading in below:
            kind = "section" if heading.level == 2 else "below"
            found.append(Mark(depth + heading.level - 1, kind, heading.words, heading.address))
    return found


def in_one_document(known: list[Page]):
    "Where a place is on paper: an id begins with its page's key."
    keys = {page.path: page.key for page in known}

    def address(path: str, place: str) -> str | None:
        return "#" + "--".join(filter(None, [keys[path], place])) if path in keys else None

    return address


def contents(listed: list[Mark], numbers: dict[str, int]) -> str:
    "The table of contents as HTML; `numbers` are the pages of paper, where they are known."
    lines = []
    for mark in listed:
        words = html.escape(mark.words)
        if mark.kind == "part":
            lines.append(f'<p class="part">{words}</p>')
        elif mark.kind != "below":
            number = f'<span class="number">{numbers.get(mark.address, "000")}</span>'
            line = f'<a href="{mark.address}"><span>{words}</span><span class="dots"></span>{number}</a>'
            lines.append(f'<p class="{mark.kind} depth-{mark.depth}">{line}</p>')
    return '<div class="contents"><h1>Contents</h1>\n' + "\n".join(lines) + "</div>"


def document(articles: list[Article], numbers: dict[str, int]) -> str:
    "The whole book as one page of HTML, with a running title for each of its pages."
    head = BeautifulSoup(built(articles[0].page.path), "html.parser").head
    folder = posixpath.join("../html", posixpath.dirname(articles[0].page.path))
    sheets = [f"{folder}/{one['href'].partition('?')[0]}" for one in head.select("link[rel=stylesheet]")]
    styles = "\n".join(f'<link rel="stylesheet" href="{sheet}">' for sheet in sheets)
    running, bodies, part = [], [], None
    for one in articles:
        key, said = one.page.key, one.headings[0].words.replace("\\", "\\\\").replace('"', '\\"')
        running.append(f'.of-{key} {{ page: p-{key}; }} @page p-{key} {{ @top-right {{ content: "{said}"; }} }}')
        over = f'<p class="part-over">{html.escape(one.page.part)}</p>' if one.page.part != part else ""
        part = one.page.part
        bodies.append(f'<div class="sheet of-{key}" id="{key}">{over}{one.body.decode(formatter="minimal")}</div>')
    style = (TOOLS / "paper.css").read_text(encoding="utf-8") + "\n".join(running)
    return f"""<!doctype html><html lang="en" data-theme="light" data-mode="light"><head><meta charset="utf-8">
<title>{TITLE}</title>{styles}<style>{style}</style></head><body>
{title_page()}
{contents(marks(articles), numbers)}
<main class="bd-content">{"".join(bodies)}</main></body></html>"""


def chromium() -> str:
    "Where the browser is. Exits where there is none."
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or sys.exit("there is no Chromium here; in Debian: apt-get install chromium")


def printed(articles: list[Article], out: Path, browser: Browser) -> None:
    "Print the pages, twice: the second time the contents know where everything is; then name what is where."
    out.parent.mkdir(parents=True, exist_ok=True)
    source, numbers, tab = out.with_suffix(".html"), {}, browser.new_page()
    tab.set_default_timeout(600_000)
    for _ in range(2):
        source.write_text(document(articles, numbers), encoding="utf-8")
        tab.goto(source.as_uri())
        tab.evaluate("document.fonts.ready")
        tab.pdf(path=out, prefer_css_page_size=True, print_background=True, tagged=True)
        numbers = {f"#{name}": number + 1 for name, (number, _) in places(PdfReader(out)).items()}
    tab.close()
    bookmark(out, marks(articles))


def places(reader: PdfReader) -> dict[str, tuple[int, float]]:
    "Where each named place of a PDF is: its page, from 0, and its height there."
    found, number = reader.named_destinations.items(), reader.get_destination_page_number
    return {name.lstrip("/"): (number(place), float(place.top or 0)) for name, place in found}


def bookmark(file: Path, listed: list[Mark]) -> None:
    "Give a PDF the bookmarks of the book, its title and its author, in place."
    logging.getLogger("pypdf").setLevel(logging.ERROR)    # it counts its own new objects, and wonders
    reader = PdfReader(file)
    where, writer, above = places(reader), PdfWriter(clone_from=reader), []
    for mark in listed:
        while above and above[-1][0] >= mark.depth:
            above.pop()
        if mark.address[1:] in where:
            number, top = where[mark.address[1:]]
            parent, fit = above[-1][1] if above else None, Fit.xyz(left=0, top=top)
            added = writer.add_outline_item(
                title=mark.words, page_number=number, parent=parent, fit=fit, is_open=mark.depth == 0
            )
            above.append((mark.depth, added))
    writer.page_mode, writer.pdf_header = "/UseOutlines", "%PDF-1.7"
    writer.add_metadata({"/Title": TITLE, "/Author": AUTHOR, "/Subject": facts()["about"]})
    writer.write(file)


def make_pdf(chosen: list[Page], known: list[Page], out: Path, browser: Browser) -> None:
    address = in_one_document(known)
    printed([article(page, built(page.path), address, lambda path: f"../html/{path}") for page in chosen], out, browser)


# Readers of electronic books

CAMEL = {name.lower(): name for name in """viewBox preserveAspectRatio markerWidth markerHeight markerUnits refX refY
    textLength lengthAdjust gradientUnits gradientTransform patternUnits clipPathUnits pathLength startOffset
    linearGradient radialGradient clipPath textPath foreignObject""".split()}    # fmt: skip
NAMESPACES = {"svg": "http://www.w3.org/2000/svg", "math": "http://www.w3.org/1998/Math/MathML"}
KINDS = {".xhtml": "application/xhtml+xml", ".css": "text/css", ".png": "image/png", ".svg": "image/svg+xml",
         ".jpg": "image/jpeg", ".woff2": "font/woff2"}    # fmt: skip


def in_files(known: list[Page]):
    "Where a place is in an EPUB: each page is a file."
    files = {page.path: f"{page.key}.xhtml" for page in known}

    def address(path: str, place: str) -> str | None:
        return "#".join(filter(None, [files[path], place])) if path in files else None

    return address


def as_xml(body) -> str:
    "An article as XML: SVG's names have their capitals again, and foreign elements their namespaces."
    for drawn in body.select("svg, svg *"):
        drawn.name = CAMEL.get(drawn.name, drawn.name)
        drawn.attrs = {CAMEL.get(name, name): value for name, value in drawn.attrs.items()}
    for name, space in NAMESPACES.items():
        for foreign in body.find_all(name):
            foreign["xmlns"] = space
    return body.decode(formatter="minimal")


def unnested(css: str, above: str = "") -> str:
    "Rules within rules as rules one after another, which older readers understand: `.a { & b { … } }` is `.a b { … }`."
    flat, own = [], ""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    while css.strip():
        head, sign, css = re.match(r"([^;{}]*)([;{}]?)(.*)", css, re.S).groups()
        if sign != "{":
            own += f"{head.strip()}; " if head.strip() else ""
            continue
        depth, end = 1, 0
        while depth:
            depth, end = depth + {"{": 1, "}": -1}.get(css[end], 0), end + 1
        inner, css, head = css[: end - 1], css[end:], " ".join(head.split())
        if head.startswith("@"):
            flat.append(f"{head} {{ {unnested(inner, above)} }}")
        else:
            whole = f":is({above})" if "," in above else above
            flat.append(unnested(inner, head.replace("&", whole) if "&" in head or not above else f"{whole} {head}"))
    return "\n".join(([f"{above} {{ {own}}}"] if own else []) + flat)


def xhtml(title: str, body: str, head: str = "") -> str:
    return f"""<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">
<head><title>{html.escape(title)}</title><link rel="stylesheet" href="ebook.css"/>{head}</head>
<body>{body}</body></html>
"""


def navigation(listed: list[Mark]) -> str:
    "The contents of an EPUB as nested lists."
    lines, depths = [], []    # of the lists that are open
    for mark in [mark for mark in listed if mark.kind != "below"]:
        if not depths or mark.depth > depths[-1]:
            lines.append("<ol>")
            depths.append(mark.depth)
        else:
            lines.append("</li>")
        while len(depths) > 1 and depths[-2] >= mark.depth:
            lines.append("</ol></li>")
            depths.pop()
        words = html.escape(mark.words)
        name = f"<span>{words}</span>" if mark.kind == "part" else f'<a href="{mark.address}">{words}</a>'
        lines.append(f"<li>{name}")
    return "\n".join(lines) + "</li></ol>" * len(depths)


def package(files: dict[str, bytes], spine: list[str]) -> str:
    "The EPUB's own description: what it is, its files, and the order in which they are read."
    told, items = facts(), []
    for name, data in files.items():
        held = [kind for kind, sign in (("svg", b"<svg"), ("mathml", b"<math")) if sign in data and "html" in name]
        held += {"nav.xhtml": ["nav"], "cover.png": ["cover-image"]}.get(name, [])
        also = f' properties="{" ".join(held)}"' if held else ""
        items.append(f'<item id="{ident(name)}" href="{name}" media-type="{KINDS[Path(name).suffix]}"{also}/>')
    order = "\n".join(f'<itemref idref="{ident(name)}"/>' for name in spine)
    now = datetime.datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), datetime.UTC)
    listed = "\n".join(items)
    return f"""<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, REPOSITORY)}</dc:identifier>
<dc:title>{html.escape(TITLE)}</dc:title><dc:creator>{html.escape(AUTHOR)}</dc:creator><dc:language>en</dc:language>
<dc:description>{html.escape(told["about"])}</dc:description><dc:source>{REPOSITORY}</dc:source>
<meta property="dcterms:modified">{now:%Y-%m-%dT%H:%M:%SZ}</meta>
<meta property="schema:accessMode">textual</meta><meta property="schema:accessMode">visual</meta>
<meta property="schema:accessModeSufficient">textual</meta>
<meta property="schema:accessibilityFeature">MathML</meta>
<meta property="schema:accessibilityFeature">alternativeText</meta>
<meta property="schema:accessibilityFeature">tableOfContents</meta>
<meta property="schema:accessibilityHazard">none</meta>
</metadata>
<manifest>
{listed}
</manifest>
<spine>
{order}
</spine></package>
"""


def ident(name: str) -> str:
    "A file's name as XML can have it for an id."
    return "f-" + re.sub(r"[^\w-]", "-", name)


def cover(browser: Browser) -> bytes:
    "The title page as a picture."
    style = (TOOLS / "ebook.css").read_text(encoding="utf-8")
    tab = browser.new_page(viewport={"width": 600, "height": 800}, device_scale_factor=2)
    tab.set_content(f'<html lang="en"><style>{style}</style><body class="cover">{title_page()}')
    picture = tab.screenshot()
    tab.close()
    return picture


def make_epub(chosen: list[Page], known: list[Page], out: Path, browser: Browser) -> None:
    address, pictures, sheets = in_files(known), {}, {}

    def picture(path: str) -> str:
        pictures[path] = "images/" + posixpath.basename(path)
        return pictures[path]

    articles = [article(page, built(page.path), address, picture) for page in chosen]
    files, part = {"title.xhtml": xhtml(TITLE, as_xml(BeautifulSoup(title_page(), "html.parser")))}, None
    listed = navigation(marks(articles))
    files["nav.xhtml"] = xhtml("Contents", f'<nav epub:type="toc" id="toc"><h1>Contents</h1>\n{listed}</nav>')
    for one in articles:
        styles = ""
        for style in one.body.select("style"):
            name = f"piece-{style.find_parent('figure')['data-piece']}.css"
            sheets[name], styles = unnested(style.extract().string), f'{styles}<link rel="stylesheet" href="{name}"/>'
        over = f'<p class="part-over">{html.escape(one.page.part)}</p>' if one.page.part != part else ""
        part = one.page.part
        files[f"{one.page.key}.xhtml"] = xhtml(one.headings[0].words, over + as_xml(one.body), styles)
    spine = list(files)
    files |= sheets | {"ebook.css": (TOOLS / "ebook.css").read_text(encoding="utf-8")}
    files = {name: text.encode() for name, text in files.items()}
    files["cover.png"], files["math.woff2"] = cover(browser), (HTML / "_static" / "math.woff2").read_bytes()
    files |= {name: (HTML / path).read_bytes() for path, name in pictures.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("mimetype", "application/epub+zip", zipfile.ZIP_STORED)
        book.writestr("META-INF/container.xml", CONTAINER)
        book.writestr("book/package.opf", package(files, spine))
        for name, data in files.items():
            book.writestr(f"book/{name}", data)


CONTAINER = """<?xml version="1.0" encoding="utf-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="book/package.opf" media-type="application/oebps-package+xml"/></rootfiles></container>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("form", choices=["pdf", "epub"])
    form = parser.parse_args().form
    known = pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    out = ROOT / "_build" / form / f"annotated-decoder.{form}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        (make_pdf if form == "pdf" else make_epub)(known, known, out, browser)
        browser.close()
    print(f"The book is in {out}, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
