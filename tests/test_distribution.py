"""What the distribution and the logits to move are fed with, and what they refuse."""

import math
import re

import pytest
import torch
from test_interactive import Reader

from annotated_decoder.encoder_outputs import START
from annotated_decoder.pronunciation.model import steps
from annotated_decoder.softmax import softmax
from annotated_decoder.teaching.distribution import distribution, draggable_logits, recorded_steps


def numbers(html):
    "The numbers of a table's cells, row by row."
    rows = re.findall(r'<tr><th scope="row">.*?</tr>', html)
    return [[float(x.replace("−", "-")) for x in re.findall(r"<td[^>]*>(?:<strong>)?([−\d.]+)", row)] for row in rows]


def test_a_recorded_step_is_the_loops_and_is_named_by_what_was_read(trained):
    found = recorded_steps(trained, {"read": 1, "daughter": 4})
    start = trained.target.symbols[START]
    loop = {word: list(steps(word)) for word in ("read", "daughter")}
    before = " ".join(step.phoneme for step in loop["daughter"][:4])
    assert list(found) == [f"read: after {start} R", f"daughter: after {start} {before}"]
    for logits, step in zip(found.values(), (loop["read"][1], loop["daughter"][4]), strict=True):
        assert torch.allclose(torch.tensor(logits), step.logits, atol=1e-4)


@pytest.mark.parametrize("at", [-1, 4])
def test_a_step_that_a_word_does_not_have_is_refused(trained, at):
    with pytest.raises(ValueError, match=f"step {at} of 'read' is asked for; it has steps 0 to 3"):
        recorded_steps(trained, {"read": at})


def test_the_still_distribution_is_the_first_step_under_four_settings():
    z = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().tolist()
    made = distribution({"first": z[::-1], "second": z}, list("abcd"), "A step", shown=2)
    hot = softmax(torch.tensor(z), 2.0).tolist()
    expected = [[0.5, 0.25, 0.25], [*hot[:2], sum(hot[2:])], [0.57, 0.29, 0.14], [0.5, 0.25, 0.25]]
    assert numbers(made.still) == [pytest.approx(row, abs=0.0051) for row in expected]
    assert re.findall(r'<th scope="col">(.*?)</th>', made.still) == ["d", "c", "2 more"]
    assert [step["name"] for step in made.data["steps"]] == ["first", "second"] and made.data["shown"] == 2
    assert "more" not in distribution({"first": z}, list("abcd"), "A step", shown=4).still


@pytest.mark.parametrize("steps, symbols, shown, named", [
    ({}, "ab", 12, "there are 0 steps"), ({"s": [0.0, 1.0]}, "ab", 0, "0 tokens are to be shown"),
    ({"s": [0.0]}, "ab", 12, "'s' has 1 logits for 2 symbols"), ({"s": [0.0]}, "a", 12, "at least 2 symbols"),
    ({"s": [0.0, -math.inf]}, "ab", 12, "'s' has a logit that is not finite"),
    ({"s": [0.0, math.nan]}, "ab", 12, "not finite"),
])    # fmt: skip
def test_steps_that_do_not_fit_are_refused(steps, symbols, shown, named):
    with pytest.raises(ValueError, match=named):
        distribution(steps, list(symbols), "A step", shown)


def test_the_still_logits_are_those_of_torch():
    z = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(z, torch.tensor(1))
    loss.backward()
    made = draggable_logits(list("abc"), z.tolist(), "Drag", "b", rate=0.5)
    expected = [z.tolist(), z.softmax(-1).tolist(), [0, 1, 0], z.grad.tolist()]
    assert numbers(made.still) == [pytest.approx(row, abs=5.1e-4) for row in expected]
    assert f"The right token is b, and the loss is {loss.item():.3f} nats." in made.still
    assert made.data["target"] == 1 and made.data["rate"] == 0.5


@pytest.mark.parametrize("symbols, logits, target, rate, named", [
    ("a", [0.0], "a", 1.0, "2 to 8, each once"), ("abcdefghi", [0.0] * 9, "a", 1.0, "2 to 8"),
    ("aa", [0.0, 0.0], "a", 1.0, "each once"), ("ab", [0.0], "a", 1.0, "for 2 symbols; give one for each"),
    ("ab", [0.0, 6.5], "a", 1.0, "from −6 to 6"), ("ab", [0.0, math.nan], "a", 1.0, "from −6 to 6"),
    ("ab", [0.0, 0.0], "c", 1.0, "the target is 'c'"), ("ab", [0.0, 0.0], "a", 0.0, "rate is 0.0; give 0.1 to 2"),
    ("ab", [0.0, 0.0], "a", 2.5, "give 0.1 to 2"),
])    # fmt: skip
def test_logits_that_do_not_fit_are_refused(symbols, logits, target, rate, named):
    with pytest.raises(ValueError, match=named):
        draggable_logits(list(symbols), logits, "Drag", target, rate)


def test_labels_are_text_in_the_still_figures_and_the_pieces_are_small(trained):
    hostile = "<img src=x onerror=alert(1)>&\"'"
    made = [distribution({hostile: [0.0, 1.0]}, [hostile, "b"], hostile),
            draggable_logits([hostile, "b"], [0.0, 1.0], hostile, hostile)]    # fmt: skip
    for piece in made:
        assert "img" not in Reader(piece.html).names() and Reader(piece.html).tags[0][1]["aria-label"] == hostile
    asked = recorded_steps(trained, {"read": 1, "wind": 1, "tear": 1, "minute": 1, "daughter": 0})
    made.append(distribution(asked, trained.target.symbols, "real"))
    assert max(len(piece.html.encode()) for piece in made) < 60_000
