"""What is special to the dials and to the climb: every number and every drawing says what the data say."""

import math
import re

import pytest
from browsing import listen

from annotated_decoder.pronunciation.model import pronouncer
from annotated_decoder.teaching.storeys import climb, position_dials

WORDS = ["knowledge", "read"]


@pytest.fixture
def shown(browser):
    "A function that shows a piece alone: its tab and its element; nothing may be complained of."
    contexts, complaints = [], []

    def show(piece, **settings):
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        complaints.append(listen(tab)[0])
        tab.set_content(f'<!doctype html><html lang="en"><title>a piece</title><body>{piece.html}</body></html>')
        return tab, tab.locator(".annotated-piece")

    yield show
    for context in contexts:
        context.close()
    assert not any(complaints)


@pytest.fixture(scope="module")
def dials():
    return position_dials(48, 192, "dials", pairs=(0, 6, 12, 20, 30, 48, 72, 95), max_shift=20)


@pytest.fixture(scope="module")
def climbing():
    return climb(pronouncer(), WORDS, "a climb")


def angle_of(path):
    "Where a hand points, in degrees clockwise from twelve, from the drawing."
    x, y = (float(n) for n in re.fullmatch(r"M0 0L(\S+) (\S+)", path).groups())
    return math.degrees(math.atan2(x, -y)) % 360


def test_the_hands_are_drawn_where_the_formula_says(shown, dials):
    _, root = shown(dials)
    position, shift = root.get_by_label("position"), root.get_by_label("shift by k")
    for p, k in ((0, 0), (1, 0), (13, 5), (47, 20)):
        position.fill(str(p))
        shift.fill(str(k))
        for kind, where in (("hand", p), ("second", p + k)):
            paths = root.locator(f".{kind}").evaluate_all("all => all.map(path => path.getAttribute('d'))")
            assert len(paths) == (8 if kind == "hand" or k else 0)
            for path, dial in zip(paths, dials.data["dials"] if paths else [], strict=True):
                wanted = math.degrees(where / 10000 ** (2 * dial["pair"] / 192)) % 360
                assert abs((angle_of(path) - wanted + 180) % 360 - 180) < 0.01


@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_angle_between_and_the_dot_product_are_the_same_at_every_position(shown, dials, k):
    _, root = shown(dials)
    root.get_by_label("shift by k").fill(str(k))
    seen, bars = set(), set()
    for p in range(48):
        root.get_by_label("position").fill(str(p))
        product = root.locator(".product strong").inner_text()
        assert product in root.get_by_role("status").inner_text()
        assert f"positions {p} and {p + k}," in root.locator(".product").inner_text()
        seen.add((product, *root.locator(".apart").all_inner_texts()))
        bars.add(root.locator(".bar.now").get_attribute("d").split()[0])
    (only,) = seen
    assert bars == {f"M{k}"}
    cosines = sum(math.cos(k / 10000 ** (2 * i / 192)) for i in range(96))
    assert abs(float(only[0]) - cosines) < 0.0051
    assert only[1] == f"{math.degrees(k) % 360:.0f}° ahead" and only[-1] == {20: "0.1° ahead"}.get(k, "<0.1° ahead")


def test_without_a_shift_there_is_one_hand_and_nothing_stands_apart(shown, dials):
    _, root = shown(dials)
    assert root.locator(".second").count() == 8
    root.get_by_label("shift by k").fill("0")
    assert root.locator(".hand").count() == 8 and root.locator(".second, .wedge, .apart").count() == 0
    assert "with itself is 96.00, half its width" in root.get_by_role("status").inner_text()


def test_a_wedge_of_more_than_half_a_turn_goes_the_long_way(shown, dials):
    _, root = shown(dials)
    for k, long in ((3, "0"), (5, "1")):    # 172 and 286 degrees
        root.get_by_label("shift by k").fill(str(k))
        arc = re.search(r"A(.*)Z", root.locator(".wedge").first.get_attribute("d"))[1].split()
        assert arc[3:5] == [long, "1"]


def test_a_storey_answers_when_it_is_reached_and_as_the_data_say(shown, climbing):
    _, root = shown(climbing)
    for n, word in enumerate(climbing.data["climbs"]):
        root.get_by_role("combobox").first.select_option(index=n)
        for t, storeys in enumerate(word["steps"]):
            root.get_by_role("combobox").last.select_option(index=t)
            for at, storey in enumerate(storeys):
                root.get_by_role("slider").fill(str(at + 1))
                told = root.locator(".house .tile").all_inner_texts()[::-1]
                assert told == [each["top"][0][0] for each in storeys[: at + 1]]
                assert root.locator(".five .tile").all_inner_texts() == [token for token, _ in storey["top"]]
                said, solid = root.get_by_role("status").inner_text(), root.locator(".house .same").all_inner_texts()
                assert f"{storey['length']:.1f} long" in said and set(solid) <= {word["said"][t]}
                assert ("the model itself answers" in said) == (at == len(storeys) - 1)
            assert solid and told[-1] == word["said"][t]


def test_the_triangle_is_true_to_scale(shown, climbing):
    _, root = shown(climbing)
    storeys = climbing.data["climbs"][0]["steps"][0]
    for at in range(1, len(storeys)):
        root.get_by_role("slider").fill(str(at + 1))
        for kind, wanted in (("was", storeys[at - 1]["length"]), ("added", storeys[at]["added"]),
                             ("now", storeys[at]["length"])):    # fmt: skip
            start = re.match(r"M(\S+) (\S+)L([^ML ]+) ([^ML ]+)", root.locator(f".sum .{kind}").get_attribute("d"))
            x, y, u, v = (float(n) for n in start.groups())
            assert abs(math.hypot(u - x, v - y) - wanted) < 0.02
            assert root.locator(f".key.{kind}").inner_text().endswith(f"{wanted:.1f}")


def test_another_word_has_its_own_steps_and_the_storey_stays(shown, climbing):
    _, root = shown(climbing)
    root.get_by_role("slider").fill("8")
    root.get_by_role("combobox").last.select_option(index=2)
    root.get_by_role("combobox").first.select_option(index=1)
    read = climbing.data["climbs"][1]["read"]
    assert root.get_by_role("combobox").last.locator("option").all_inner_texts() == [
        f"{i}, after {token}" for i, token in enumerate(read, start=1)
    ]
    assert root.get_by_role("combobox").last.input_value() == f"1, after {read[0]}"
    assert root.get_by_role("slider").input_value() == "8" and root.locator(".house .tile").count() == 8
    assert "Storey 8 of 10" in root.get_by_role("status").inner_text()
