"""The pages of questions and of claims: each answer stands on a cell that asserts, and each thread has its link."""

import re
from pathlib import Path

import nbformat
import pytest
from test_repository import headings

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
THREAD = r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+"
LINK = r"\[([^\]]*)\]\(((?:[^()\s]|\([^()\s]*\))+)\)"


def questions(page):
    "Each question with its answer, where it is shown and where it was asked; a part that is missing is ''."
    found = {}
    for section in re.split(r"^### ", re.sub(r"^## .*$", "", page, flags=re.M), flags=re.M)[1:]:
        question, _, rest = section.partition("\n")
        parts = re.fullmatch(r"\n(.+?)\n\n- Shown in (.+)\n- Asked in (.+)\n*", rest, re.S)
        assert question not in found, question
        found[question] = parts.groups() if parts else ("", "", "")
    return found


def under(path, name):
    "The code cells of a notebook below a heading, up to the next of its level or above; None where there is none."
    cells, level = None, 0
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S)
            for line in re.findall(r"^#+ +.*$", text, re.M):
                depth = len(line) - len(line.lstrip("#"))
                if cells is None and [*headings(line)] == [name]:
                    cells, level = [], depth
                elif cells is not None and depth <= level:
                    return cells
        elif cells is not None and cell.cell_type == "code":
            cells.append(cell.source)
    return cells


def asserts(cells):
    return any(re.search(r"^\s*assert\b", source, re.M) for source in cells or [])


def problems(page):
    "What is wrong with a page of questions, one sentence each."
    found = questions(page)
    for question, (answer, shown, asked) in found.items():
        sentences = re.findall(r"[.!?](?=\s|$)", answer)
        if len(sentences) != 2 or len(answer.splitlines()) != 2 or not answer.endswith("."):
            yield f"{question} has {len(sentences)} sentences"
        links = [link for _, link in re.findall(LINK, shown)]
        if not links:
            yield f"{question} links no cell"
        for link in links:
            target, _, name = link.partition("#")
            path = BOOK / target
            if path.suffix != ".ipynb" or not path.exists() or under(path, name) is None:
                yield f"{question} links to {link}, which is no heading"
            elif not asserts(under(path, name)):
                yield f"{question} links to {link}, and nothing is asserted there"
        threads = re.findall(LINK, asked)
        if not threads or re.search(r"[#/\w]", re.sub(LINK, "", asked)):
            yield f"{question} names a thread without a link"
        repository = ""    # a number alone is one more of the repository before it
        for text, link in threads:
            named, _, number = text.rpartition("#")
            repository = named.strip() or repository
            kinds = [f"https://github.com/{repository}/{kind}/{number}" for kind in ("issues", "pull")]
            if link not in kinds or not re.fullmatch(THREAD, link):
                yield f"{question} calls {link} {text}"
    outside = re.sub(r"^- (Asked|Shown) in .*$|^#.*$", "", page, flags=re.M)
    if re.search(r"#\d", outside):
        yield "a thread is named outside its place"


@pytest.fixture(scope="module")
def page():
    return (BOOK / "questions.md").read_text(encoding="utf-8")


def test_thirty_one_questions_have_two_sentences_a_cell_that_asserts_and_their_threads(page):
    assert len(questions(page)) == 31
    assert list(problems(page)) == []


SPOILED = {
    "has 1 sentences": (".\nThe cell refuses every connection, and", ", and it\nrefuses every connection, and"),
    "which is no heading": ("#Where-does-the-norm-stand?-", "#Where-does-a-norm-stand?-"),
    "nothing is asserted there": ("#Why-do-two-courses-differ?", "#How-far-does-the-gradient-reach?"),
    "without a link": ("[#13](https://github.com/harvardnlp/annotated-transformer/issues/13)", "#13"),
    "calls https": ("annotated-transformer/issues/92)", "annotated-transformer/issues/91)"),
    "outside its place": ("Nothing here asks a server:", "Unlike #96, nothing here asks a server:"),
    "links no cell": ("- Asked in [keras-team", "- Asked by [keras-team"),
}


@pytest.mark.parametrize("told", SPOILED)
def test_a_page_that_is_wrong_is_seen(told, page):
    right, wrong = SPOILED[told]
    assert page.count(right) == 1
    found = list(problems(page.replace(right, wrong)))
    assert found and any(told in problem for problem in found)


def test_a_cell_counts_only_up_to_the_next_heading_of_its_level():
    attention = ROOT / "notebooks" / "02_attention.ipynb"
    whole, part = under(attention, "The-mask:-True-means-may-look"), under(attention, "May-a-position-look-at-itself?")
    assert 0 < len(part) < len(whole) and part == [cell for cell in whole if cell in part]
    assert under(attention, "What-if-a-row-may-look-nowhere?") != [] and under(attention, "Nowhere") is None
    assert not asserts(["print('assert')", "x = 1  # assert"]) and asserts(["def f():\n    assert x"])


CLAIM = (
    r"## (N\d+): (.+)\n\nWhat is loose\n: (.+)\n\nPrecisely\n: (.+)\n\n"
    r"Checked in\n: \[(N\d+)\]\((\S+)\) of \[.+\]\(\S+\)\n*"
)


def test_sixteen_claims_have_all_four_parts():
    page = (BOOK / "claims.md").read_text(encoding="utf-8")
    sections = [re.fullmatch(CLAIM, f"## {part}") for part in re.split(r"^## ", page, flags=re.M)[1:]]
    assert len(sections) == 16 and all(sections)
    for n, (name, told, loose, precise, linked, link) in enumerate((s.groups() for s in sections), 1):
        assert name == linked == f"N{n}" and link.endswith(f"-(claim-N{n})")
        assert all(part.endswith(".") for part in (told, loose, precise)) and len({told, loose, precise}) == 3


def test_the_first_page_has_a_card_for_each_claim(monkeypatch):
    monkeypatch.syspath_prepend(BOOK / "_ext")
    from annotated_book import ClaimCards

    cards = ClaimCards.text(None).split("\n\n")
    told = re.findall(r"^## N\d+: (.+)$", (BOOK / "claims.md").read_text(encoding="utf-8"), re.M)
    assert [card.splitlines()[0] for card in cards] == [f":::{{dropdown}} {sentence}" for sentence in told]
    assert all(re.fullmatch(r":::.*\n.* Checked in \[[^]]+\]\(\S+-\(claim-N\d+\)\)\.\n:::", card) for card in cards)
