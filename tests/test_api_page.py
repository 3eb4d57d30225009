"""The reference: every public name is on a page, and what the pages import can be imported."""

import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
sys.path.insert(0, str(BOOK / "_ext"))

from annotated_book import chapters, documented, homes, label_of, rooms, term_of, terms  # noqa: E402


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "The pages of the reference alone, built: the text of each."
    out = tmp_path_factory.mktemp("api")
    extensions = ["myst_parser", "sphinx.ext.autodoc", "annotated_book"]
    settings = dict(extensions=extensions, root_doc="index", html_theme="basic", suppress_warnings=["myst", "toc"])
    app = Sphinx(BOOK / "api", None, out, out / "doctrees", "html", settings, status=None, warning=None)
    app.build()
    assert app.statuscode == 0
    return {page.stem: page.read_text(encoding="utf-8") for page in out.glob("*.html")}


def test_every_public_name_is_described_once(pages):
    where = {name: "chapters" for name in chapters()} | {name: name for name in rooms()}
    assert len(chapters()) >= 14 and len(rooms()) >= 5
    for module in documented():
        page = pages[where[module.rpartition(".")[2]]]
        names = import_module(module).__all__
        assert names and {name: page.count(f'id="{module}.{name}"') for name in names} == dict.fromkeys(names, 1)


def test_every_name_at_the_top_leads_to_its_description(pages):
    assert all(f'.html#{home}.{name}"' in pages["index"] for name, home in homes().items())


def test_every_room_has_a_page_of_names_and_one_that_says_what_it_is_for():
    files = set(re.findall(r"file: (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8")))
    assert {f"book/api/{room}" for room in rooms()} <= files
    assert {f"book/rooms/{room}" for room in rooms()} <= files


def listed(entry):
    "The files of one entry of the contents and of those below it."
    return [entry["file"], *(file for below in entry.get("sections", []) for file in listed(below))]


def test_every_notebook_is_in_the_contents_once_and_those_of_a_room_lie_under_its_page():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]
    entries = [chapter for part in parts for chapter in part["chapters"]]
    files = [file for entry in entries for file in listed(entry)]
    there = {str(p.relative_to(ROOT).with_suffix("")) for p in (ROOT / "notebooks").rglob("[!.]*.ipynb")
             if ".ipynb_checkpoints" not in p.parts}    # fmt: skip
    assert len(there) > 40 and there == {file for file in files if file.startswith("notebooks/")}
    assert len(files) == len(set(files))
    chain = [entry["file"] for entry in entries if "sections" not in entry]
    tour, *others, primer = sorted(file for file in there if file.count("/") == 1)
    assert chain == [tour, primer, *others, "book/what_you_built"]
    workshop = {room["file"]: listed(room)[1:] for room in entries[-1]["sections"]}
    for page, notebooks in workshop.items():
        text = (ROOT / f"{page}.md").read_text(encoding="utf-8")
        assert all(f"(../../{notebook}.ipynb)" in text for notebook in notebooks)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(BOOK.rglob("*.md"))], ids=lambda p: p.stem)
def test_what_a_page_imports_is_there(page):
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in re.findall(r"^(?:from annotated_decoder|import annotated_decoder).*", code, re.MULTILINE):
            exec(line, {})
        compile(code, page.name, "exec")


def test_the_words_on_a_folded_cell():
    assert [label_of(i) for i in ("imports", "imports-page")] == ["Imports"] * 2
    assert (label_of("solution-x"), label_of("also-checked"), label_of("tree")) == ("Solution", "We also checked", None)
    assert label_of("tree-holds") == "Check"


def test_a_link_to_the_glossary_leads_to_its_entry():
    known = terms()
    assert known["gelu"] == "term-gelu" and known["all-gather"] == known["reduce-scatter"]
    assert term_of("Logit", known) == known["logits"] and term_of("hubs", known) == known["hub"]
    assert term_of("a word that it lacks", known) is None
