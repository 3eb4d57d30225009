"""A chapter and the glossary as the book in one file: printed, and for readers of electronic books."""

import re
import sys
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest
import yaml
from browsing import HTML
from pypdf import PdfReader

ROOT = HTML.parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import paper  # noqa: E402

CHOSEN = ["notebooks/01_encoder_outputs", "book/glossary"]


@pytest.fixture(scope="module")
def chosen():
    every = paper.pages(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    return [page for page in every if page.path in CHOSEN]


@pytest.fixture(scope="module")
def book(chosen, browser):
    with tempfile.TemporaryDirectory(dir=ROOT / "_build") as folder:    # beside the pages: it shows their pictures
        paper.make_pdf(chosen, chosen, Path(folder) / "tried.pdf", browser)
        yield PdfReader(Path(folder) / "tried.pdf")


def test_what_is_printed_is_the_whole_chapter_on_a4(book):
    assert 8 < len(book.pages) < 40
    for page in book.pages:
        assert [round(float(side)) for side in page.mediabox[2:]] == [595, 842]
    assert book.metadata.title == paper.TITLE
    assert book.trailer["/Root"]["/MarkInfo"]["/Marked"], "nothing is there for those who listen"
    first, second, *rest = [" ".join(page.extract_text().split()) for page in book.pages]
    text = " ".join(rest)
    assert paper.TITLE in first and "Contents" in second and "1 · Encoder outputs" in second
    page = paper.BeautifulSoup(paper.built(CHOSEN[0]), "html.parser").article
    for part in page.select("section > p, h2, .cell_input pre")[2:]:    # folds too
        part = re.sub(r"\s|#$", "", part.get_text())
        assert part[:40] in re.sub(r"\s", "", text) or not part.isascii(), part
    tops = [page.extract_text().splitlines()[:2] for page in book.pages]    # where the foot's number is extracted
    assert [n for n, lines in enumerate(tops, 1) if str(n) not in lines] == [1]


def test_bookmarks_and_contents_lead_where_they_say(book):
    part, (chapter, sections, *_), other, *_ = book.outline
    assert [part.title, chapter.title, other.title] == ["Reading", "1 · Encoder outputs", "Beside the chapters"]
    assert "Symbols become ids" in [mark.title for mark in sections if not isinstance(mark, list)]
    listed = " ".join(book.pages[1].extract_text().split())
    for mark in [chapter, *(mark for mark in sections if not isinstance(mark, list))]:
        number = book.get_destination_page_number(mark)
        text = " ".join(book.pages[number].extract_text().split())
        assert mark.title in text
        assert re.search(rf"{re.escape(mark.title)}\W*{number + 1}\b", listed), mark.title


def test_links_between_pages_stay_in_the_file(book):
    named = {name.lstrip("/") for name in book.named_destinations}
    links = [note.get_object() for page in book.pages for note in page.get("/Annots") or []]
    inside = {str(link["/Dest"]).lstrip("/") for link in links if "/Dest" in link}
    outside = {str(link["/A"]["/URI"]) for link in links if "/A" in link}
    assert {"glossary", "01_encoder_outputs"} <= inside <= named
    assert outside and all(address.startswith("https://") for address in outside)


def test_a_reader_of_electronic_books_finds_all_it_needs(chosen, tmp_path, browser):
    out = tmp_path / "tried.epub"
    paper.make_epub(chosen, chosen, out, browser)
    with zipfile.ZipFile(out) as book:
        first = book.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        files = {name.removeprefix("book/"): book.read(name) for name in book.namelist()}
    described = ET.fromstring(files["package.opf"])
    held = {item.get("href") for item in described.iter("{http://www.idpf.org/2007/opf}item")}
    assert held == files.keys() - {"mimetype", "META-INF/container.xml", "package.opf"}
    trees = {name: ET.fromstring(text) for name, text in files.items() if name.endswith(".xhtml")}
    ids = {f"{name}#{each.get('id')}" for name, tree in trees.items() for each in tree.iter() if each.get("id")}
    assert {"title.xhtml", "nav.xhtml", "01_encoder_outputs.xhtml", "glossary.xhtml"} == trees.keys()
    for name, tree in trees.items():
        assert not [each.tag for each in tree.iter() if re.search(r"\}(script|button|details|style)$", each.tag)]
        for each in tree.iter():
            for address in filter(None, (each.get("href"), each.get("src"))):
                whole = name + address if address.startswith("#") else address
                assert address.startswith("https://") or whole in ids | files.keys(), (name, address)
    assert files["cover.png"].startswith(b"\x89PNG")
