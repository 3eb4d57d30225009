"""What a card holds, how long a training takes, what a card needs: the formulas, and the piece that tells them."""

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_interactive import HOSTILE, Reader

from annotated_decoder.teaching.interactive import as_json
from annotated_decoder.teaching.planning import gigabytes_a_card, least_tokens, training_days, will_it_fit

PEAK = 989e12                                                       # operations a second
SPEED = 0.4 * PEAK                                                  # of all hours
WEIGHTS = [1e7, 2e7, 5e7, 1e8, 2e8, 5e8, 1e9, 2e9, 5e9, 7e9, 1e10, 2e10, 5e10, 7e10, 1e11, 2e11, 5e11, 1e12]
CARDS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
PLACES = [(stage, i, j) for stage in range(4) for i in range(len(WEIGHTS)) for j in range(len(CARDS))]


@pytest.fixture(scope="module")
def piece():
    return will_it_fit("Will it fit?")


@pytest.fixture(scope="module")
def data(piece):
    "As a page gets it, rounded."
    return json.loads(as_json(piece.data, piece.digits))


def number(text):
    "What a text of the piece says: 1.4 trillion, 9,620 years."
    amount, _, unit = text.partition(" ")
    return float(amount.replace(",", "")) * {"million": 1e6, "billion": 1e9, "trillion": 1e12}.get(unit, 1)


def test_a_card_holds_what_figure_1_of_rajbhandari_says():
    sums = [sum(gigabytes_a_card(7.5e9, 64, stage).values()) for stage in range(4)]
    assert [round(gb, 1) for gb in sums] == [120, 31.4, 16.6, 1.9]


@given(st.floats(1, 1e13), st.integers(1, 10_000))
def test_each_stage_cuts_one_part_more_and_together_the_cards_hold_it_once(weights, cards):
    whole = {"weights": 2, "gradients": 2, "optimizer": 12}         # bytes a weight
    for stage, cut in enumerate(((), ("optimizer",), ("optimizer", "gradients"), tuple(whole))):
        for part, gb in gigabytes_a_card(weights, cards, stage).items():
            copies = 1 if part in cut else cards
            assert math.isclose(gb * cards, copies * whole[part] * weights / 1e9)


@pytest.mark.parametrize("stage, cards", [(4, 8), (-1, 8), (3, 0)])
def test_another_stage_and_no_card_are_refused(stage, cards):
    with pytest.raises(ValueError, match=f"stage is {stage} and cards is {cards}; give a stage from 0 to 3"):
        gigabytes_a_card(1e9, cards, stage)


@pytest.mark.parametrize("cards, network", [(2, 450e9), (8, 450e9), (9, 400e9), (1024, 400e9)])
@pytest.mark.parametrize("operations, sent", [(4, 2 * 2), (2, 1 * 2)], ids=["backward", "forward of FSDP"])
@given(st.floats(1e6, 1e13))
def test_at_the_least_tokens_computing_takes_as_long_as_sending(operations, sent, cards, network, weights):
    computing = operations * weights * least_tokens(cards) / PEAK
    assert math.isclose(computing, weights * sent / network)


def test_one_card_sends_nothing_and_needs_no_number_of_tokens():
    assert least_tokens(1) == 0


@given(st.floats(1e6, 1e13), st.floats(1e6, 1e14), st.integers(1, 2000))
def test_the_cards_do_all_operations_in_the_time_that_is_told(weights, tokens, cards):
    done = training_days(weights, tokens, cards) * 24 * 3600 * cards * SPEED
    assert math.isclose(done, 6 * weights * tokens)


def test_the_piece_holds_what_the_formulas_say_at_every_place(data):
    assert data["cards"] == CARDS and [number(size["weights"]) for size in data["sizes"]] == WEIGHTS
    assert [number(size["tokens"]) for size in data["sizes"]] == [20 * weights for weights in WEIGHTS]
    for stage, i, j in PLACES:
        *parts, total, left, times = data["held"][stage][i][j]
        held = [*gigabytes_a_card(WEIGHTS[i], CARDS[j], stage).values()]
        wanted = [*held, sum(held), 80 - sum(held), sum(held) / 80]
        assert [*parts, total, left, times] == pytest.approx(wanted, abs=0.0051)
        assert (left > 0, left < 0) == (sum(held) < 80, sum(held) > 80)
        cut = data["ways"][stage]["cut"]
        assert [whole * 16 / bytes_each for whole, (_, bytes_each) in zip(held, data["parts"], strict=True)] == (
            pytest.approx([WEIGHTS[i] * 16e-9 / (CARDS[j] if is_cut else 1) for is_cut in cut])
        )


def test_the_least_tokens_are_told_with_the_line_that_asks_for_them(data):
    units = {"gigabytes a second, within a machine": 1e9, "gigabytes a second between machines": 1e9}
    assert data["asks"][0] == ["A card may be given", "any number of tokens", "at a time: alone it sends nothing."]
    for n, (start, tokens, why) in list(zip(CARDS, data["asks"], strict=True))[1:]:
        amount, unit = re.fullmatch(r"at a time, to hide what it sends at (\d+) (.*)\.", why).groups()
        assert start == "A card needs at least" and ("within a machine" in unit) == (n <= 8)
        assert number(tokens) == pytest.approx(PEAK / (int(amount) * units[unit]), rel=0.005)
    assert {tokens for _, tokens, _ in data["asks"][1:]} == {"2,200 tokens", "2,470 tokens"}


def test_a_time_is_told_in_the_largest_unit_that_it_fills(data):
    units = {"year": 365.0, "day": 1.0, "hour": 1 / 24, "minute": 1 / 1440}
    seen = set()
    for i, row in enumerate(data["lasts"]):
        for j, text in enumerate(row):
            days, (amount, unit) = training_days(WEIGHTS[i], 20 * WEIGHTS[i], CARDS[j]), text.rsplit(" ", 1)
            seen.add(unit.rstrip("s"))
            if text == "less than a minute":
                assert days < units["minute"]
                continue
            length = units[unit.rstrip("s")]
            assert number(amount) == pytest.approx(days / length, rel=0.005) and unit.endswith("s") == (amount != "1")
            assert days >= length and all(days < longer for longer in units.values() if longer > length)
    assert seen == {*units}


def test_the_still_table_lights_what_does_not_fit_and_escapes(piece):
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', piece.still)
    assert [name for name, _ in rows][::3] == ["10 million", "7 billion", "1 trillion"]
    for name, cells in rows:
        for stage, (lit, text) in enumerate(re.findall(r"<td( class=lit)?>(.*?)</td>", cells)[:4]):
            gb = sum(gigabytes_a_card(number(name), 64, stage).values())
            assert bool(lit) == (gb > 80)
            assert text == "&lt;0.01" if gb < 0.01 else number(text) == pytest.approx(gb, rel=0.02, abs=0.005)
    assert "&lt;0.01" in piece.still and "Activations and buffers come on top" in piece.still
    found = Reader(will_it_fit(HOSTILE).html)
    assert found.tags[0][1]["aria-label"] == HOSTILE and "img" not in found.names() and len(found.scripts) == 2


def test_it_is_light_enough_for_a_page(piece):
    assert len(piece.html) < 60_000
