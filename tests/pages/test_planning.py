"""What is special to *Will it fit?*: at every place of the sliders, words, numbers and bar say what the data say."""

import json

import pytest
from browsing import listen, violations

from annotated_decoder.teaching.interactive import as_json
from annotated_decoder.teaching.planning import gigabytes_a_card, will_it_fit

PIECE = will_it_fit("Will it fit?")
DATA = json.loads(as_json(PIECE.data, PIECE.digits))
SIZES, CARDS = len(DATA["sizes"]) - 1, len(DATA["cards"]) - 1
FULL, OVER = (8, 0, 0), (11, 10, 1)                                # 5 billion on one card: 80 GB; 80.2 GB
PLACES = [(9, 3, 0), (9, 3, 1), (9, 6, 3), (13, 3, 2), (9, 0, 3), FULL, OVER] + [
    (size, at, way) for size in (0, SIZES) for at in (0, CARDS) for way in range(4)
]
DARK = "<style>html { background: #14181e; color: #ced6dd }</style>"


@pytest.fixture
def shown(browser):
    "A function that shows the piece alone: its tab and its element; nothing may be complained of."
    contexts, complaints = [], []

    def show(head="", width=1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        tab = contexts[-1].new_page()
        complaints.append(listen(tab)[0])
        start = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        tab.set_content(f'<!doctype html><html lang="en">{start}{head}<title>a piece</title><body>{PIECE.html}</body>')
        return tab, tab.locator(".annotated-piece")

    yield show
    for context in contexts:
        context.close()
    assert not any(complaints)


def move(root, size, at, way):
    root.get_by_role("slider", name="weights").fill(str(size))
    root.get_by_role("slider", name="cards").fill(str(at))
    root.get_by_role("combobox").select_option(index=way)


def amount(text):
    "Gigabytes from a text; less than 0.01 is nothing."
    return 0.0 if text.startswith("<") else float(text.split()[0].replace(",", ""))


def test_words_and_numbers_are_those_of_python(shown):
    _, root = shown()
    for size, at, way in PLACES:
        move(root, size, at, way)
        *parts, total, left, times = DATA["held"][way][size][at]
        told = root.locator("tbody tr").evaluate_all("all => all.map(row => [...row.cells].map(e => e.textContent))")
        assert [(name, amount(gb)) for name, _, _, gb in told] == [
            (name, pytest.approx(gb, rel=0.005, abs=0.01)) for (name, _), gb in zip(DATA["parts"], parts, strict=True)
        ]
        weights, n = 1e9 * parts[0] / 2 * (DATA["cards"][at] if way == 3 else 1), DATA["cards"][at]
        if weights > 1e9:                                           # else rounding has taken much of it
            assert parts == pytest.approx([*gigabytes_a_card(weights, n, way).values()], rel=0.02)
        whole = ["whole" if n == 1 or not cut else f"cut in {n:,}" for cut in DATA["ways"][way]["cut"]]
        assert [how for _, _, how, _ in told] == whole

        said, verdict = root.get_by_role("status").inner_text(), root.locator(".verdict").inner_text()
        assert amount(root.locator(".verdict strong").inner_text()) == pytest.approx(total, rel=0.005, abs=0.01)
        assert ("for activations and buffers" in verdict) == (left > 0) == (root.locator(".verdict .lit").count() == 0)
        assert ("It does not fit" in verdict) == (left < 0) == ("It does not fit" in said)
        if left < 0:
            assert amount(verdict.split("fit: ")[1]) == pytest.approx(times, rel=0.005)
        answers, asks = root.locator(".answer").all_inner_texts(), DATA["asks"][at]
        assert answers == [DATA["lasts"][size][at], asks[1]]
        assert root.locator(".facts div").last.locator("p").all_inner_texts() == asks
        cards = f"{n:,} card{'s' if n > 1 else ''}"
        start = f"{DATA['sizes'][size]['weights']} weights on {cards}, {DATA['ways'][way]['name']}. "
        assert said.startswith(start) and answers[0] in said
        assert said.endswith(f"{' '.join(asks)} Activations and buffers come on top.")
        assert "<" not in said


def test_a_card_that_is_full_to_the_brim_is_neither(shown):
    _, root = shown()
    move(root, *FULL)
    assert root.locator(".verdict .lit").inner_text() == "The card is full, with no room left."


def test_the_bar_is_true_to_scale_and_is_cut_by_an_arrow_past_two_cards(shown):
    _, root = shown()
    for size, at, way in PLACES:
        move(root, size, at, way)
        width = root.locator(".stack").bounding_box()["width"]
        assert abs(root.locator(".frame").bounding_box()["width"] - width / 2) < 1
        slices = root.locator(".stack .slice").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
        *parts, total, _, _ = DATA["held"][way][size][at]
        assert slices == [pytest.approx(max(1, width * gb / 160), abs=0.1) for gb in parts[:3]]
        end = root.locator(".scale span").last.inner_text()
        assert (root.locator(".stack.over").count() == 1) == (total > 160) == end.endswith("→")
        assert amount(end) == pytest.approx(max(160, total), rel=0.005)


def test_the_arrow_keys_move_the_sliders_one_place(shown):
    tab, root = shown()
    for name, before, after in (("weights", "7 billion", "10 billion"), ("cards", "8", "16")):
        slider = root.get_by_role("slider", name=name)
        assert slider.get_attribute("aria-valuetext") == before
        slider.focus()
        tab.keyboard.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext") == after
    assert root.get_by_role("status").inner_text().startswith("10 billion weights on 16 cards")


@pytest.mark.parametrize("head, width", [("", 1280), (DARK, 1280), ("", 390), (DARK, 390), ("", 340)])
def test_at_every_place_it_is_legible_and_no_wider_than_the_page(shown, head, width):
    tab, root = shown(head, width)
    for place in PLACES:
        move(root, *place)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert violations(tab, ".annotated-piece") == []
