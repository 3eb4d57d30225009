"""A checker passes what is right, names the law that a wrong answer breaks, and never raises."""

import contextlib
import functools
import io
import itertools
import math
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from annotated_decoder import check
from annotated_decoder.attention import attention
from annotated_decoder.check import reading as check_reading
from annotated_decoder.check import reading_cases
from annotated_decoder.check.laws import (
    Broken,
    Tried,
    check_function,
    checked,
    described,
    error_text,
    law,
    must_equal,
    number,
)  # fmt: skip

CHECKERS = [check.padded_weights, check.numbers_kept, check.read_memory]
(
    FORM, MEANING, ONE, LAST, ANOTHER, PROJECTIONS, QUERIES, BATCH, SCALE, MORE, FILLING, SHUFFLED, REAL, ALL, LARGE,
    LOW, FORMULA, LEARNING, GRADIENTS, SINGLE,
) = (each.name for each in check_reading.READ_MEMORY)  # fmt: skip
KEPT = "the inputs are left as they were"


def quietly(checker, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        report = checker(*args, **kwargs)
    assert out.getvalue() == report.text + "\n"
    return report


def broken(function):
    return quietly(check.read_memory, function).broken


def zeroed(memory, mask):
    return torch.where(mask[..., None], memory, 0)


def hide(scores, mask):
    return scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)


def scores_of(x, memory, w_q, w_k):
    return (x @ w_q) @ (memory @ w_k).mT / w_q.shape[1] ** 0.5


def right(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return hide(scores_of(x, memory, w_q, w_k), mask).softmax(-1) @ (memory @ w_v)


# Other ways that are right.
def by_the_package(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return attention(x @ w_q, memory @ w_k, memory @ w_v, mask[:, None])


def by_torch(x, memory, mask, w_q, w_k, w_v):
    memory, seen = zeroed(memory, mask), mask.any(-1)[:, None, None]
    visible = mask[:, None] | ~seen
    found = nn.functional.scaled_dot_product_attention(x @ w_q, memory @ w_k, memory @ w_v, visible)
    return torch.where(seen, found, 0)


def powers_of_the_visible(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    scores = hide(scores_of(x, memory, w_q, w_k), mask)
    powers = (scores - scores.amax(-1, keepdim=True)).exp() * mask[:, None]
    total = powers.sum(-1, keepdim=True)
    return powers / torch.where(total > 0, total, 1) @ (memory @ w_v)


def one_query_at_a_time(x, memory, mask, w_q, w_k, w_v):
    rows = [right(x[:, i : i + 1], memory, mask, w_q, w_k, w_v) for i in range(x.shape[1])]
    return torch.cat(rows, 1)


def nan_swept_under(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    weights = scores_of(x, memory, w_q, w_k).masked_fill(~mask[:, None], -math.inf).softmax(-1)
    return weights.nan_to_num() @ (memory @ w_v)


def by_torch_with_an_axis_of_heads(x, memory, mask, w_q, w_k, w_v):
    memory, seen = memory.masked_fill(~mask[..., None], 0), mask.any(-1)[:, None, None]
    q, k, v = ((a @ w)[:, None] for a, w in ((x, w_q), (memory, w_k), (memory, w_v)))
    found = nn.functional.scaled_dot_product_attention(q, k, v, (mask[:, None] | ~seen)[:, None])
    return found[:, 0].masked_fill(~seen, 0)


def by_einsum(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    q, k, v = (torch.einsum("bsd,dh->bsh", a, w) for a, w in ((x, w_q), (memory, w_k), (memory, w_v)))
    scores = torch.einsum("bth,bsh->bts", q, k) / math.sqrt(w_q.shape[1])
    return torch.einsum("bts,bsv->btv", hide(scores, mask).softmax(-1), v)


def column_by_column(x, memory, mask, w_q, w_k, w_v):
    found = x.new_zeros(*x.shape[:2], w_v.shape[1])
    for b, may_look in enumerate(mask):
        if may_look.any():
            real = memory[b, may_look]
            for t, row in enumerate(x[b]):
                found[b, t] = ((real @ w_k) @ (row @ w_q) / w_q.shape[1] ** 0.5).softmax(0) @ (real @ w_v)
    return found


def by_the_logarithm(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    scores = hide(scores_of(x, memory, w_q, w_k), mask)
    return (scores - scores.logsumexp(-1, keepdim=True)).exp() @ (memory @ w_v)


def in_float64_and_back(x, memory, mask, *weights):
    return right(x.double(), memory.double(), mask, *(w.double() for w in weights)).to(x.dtype)


def with_what_is_added(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    added = torch.zeros_like(memory[:, None, :, 0]).masked_fill(~mask[:, None], torch.finfo(x.dtype).min)
    return (scores_of(x, memory, w_q, w_k) + added).softmax(-1) @ (memory @ w_v)


def filled_with(lowest):
    def read_memory(x, memory, mask, w_q, w_k, w_v):
        memory = zeroed(memory, mask)
        return scores_of(x, memory, w_q, w_k).masked_fill(~mask[:, None], lowest).softmax(-1) @ (memory @ w_v)

    return read_memory


RIGHT = [
    right, by_the_package, by_torch, by_torch_with_an_axis_of_heads, by_einsum, column_by_column, one_query_at_a_time,
    powers_of_the_visible, by_the_logarithm, nan_swept_under, in_float64_and_back, with_what_is_added,
    filled_with(-1e9), filled_with(torch.finfo(torch.float32).min),
]  # fmt: skip


@pytest.mark.parametrize("function", RIGHT)
def test_right_solutions_pass(function):
    report = quietly(check.read_memory, function)
    assert report and report.passed and report.broken == () and "all 21 laws hold" in report.text
    assert "Hint" not in report.text


def test_the_loops_are_the_formula():
    for seed in range(3):
        x, memory, mask, *weights = reading_cases.padded(seed).values()
        assert torch.allclose(reading_cases.read_by_loops(x, memory, mask, *weights), right(x, memory, mask, *weights))


def no_scale(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, mask, w_q * w_q.shape[1] ** 0.5, w_k, w_v)


def scale_of_d_model(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, mask, w_q * (w_q.shape[1] / x.shape[-1]) ** 0.5, w_k, w_v)


def divided_by_head_dim(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, mask, w_q / w_q.shape[1] ** 0.5, w_k, w_v)


def softmax_over(axis, lowest=None):
    def read_memory(x, memory, mask, w_q, w_k, w_v):
        memory = zeroed(memory, mask)
        scores = scores_of(x, memory, w_q, w_k)
        scores = hide(scores, mask) if lowest is None else scores.masked_fill(~mask[:, None], lowest)
        return scores.softmax(axis) @ (memory @ w_v)

    return read_memory


def no_softmax(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return scores_of(x, memory, w_q, w_k) @ (memory @ w_v)


def mask_ignored(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, torch.ones_like(mask), w_q, w_k, w_v)


def mask_negated(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, ~mask, w_q, w_k, w_v)


def mask_negated_in_the_scores(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return scores_of(x, memory, w_q, w_k).masked_fill(mask[:, None], -math.inf).softmax(-1) @ (memory @ w_v)


def mask_on_queries(x, memory, mask, w_q, w_k, w_v):
    scores = scores_of(x, memory, w_q, w_k)
    return scores.masked_fill(~mask[:, :, None], torch.finfo(x.dtype).min).softmax(-1) @ (memory @ w_v)


def causal(diagonal):
    def read_memory(x, memory, mask, w_q, w_k, w_v):
        memory = zeroed(memory, mask)
        scores = hide(scores_of(x, memory, w_q, w_k), mask)
        seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(diagonal(*scores.shape[1:]))
        return scores.masked_fill(~seen, torch.finfo(x.dtype).min).softmax(-1) @ (memory @ w_v)

    return read_memory


def mask_after_the_softmax(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return scores_of(x, memory, w_q, w_k).softmax(-1) * mask[:, None] @ (memory @ w_v)


def padding_zeroed_and_not_masked(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return scores_of(x, memory, w_q, w_k).softmax(-1) @ (memory @ w_v)


def padding_not_zeroed(x, memory, mask, w_q, w_k, w_v):
    return hide(scores_of(x, memory, w_q, w_k), mask).softmax(-1) @ (memory @ w_v)


def keys_and_values_swapped(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, mask, w_q, w_v, w_k)


def query_from_memory(x, memory, mask, w_q, w_k, w_v):
    return right(memory, memory, mask, w_q, w_k, w_v)


def first_example_for_all(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory[:1].expand(memory.shape), mask[:1].expand(mask.shape), w_q, w_k, w_v)


def float32_inside(x, memory, mask, w_q, w_k, w_v):
    return right(x.float(), memory.float(), mask, w_q.float(), w_k.float(), w_v.float())


def always_float64(x, memory, mask, w_q, w_k, w_v):
    return right(x.double(), memory.double(), mask, w_q.double(), w_k.double(), w_v.double())


def in_place(x, memory, mask, w_q, w_k, w_v):
    memory[~mask] = 0
    return right(x, memory, mask, w_q, w_k, w_v)


def by_hand_without_maximum(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    powers = scores_of(x, memory, w_q, w_k).exp() * mask[:, None]
    return powers / powers.sum(-1, keepdim=True).clamp(min=1e-300) @ (memory @ w_v)


def keys_not_zeroed(x, memory, mask, w_q, w_k, w_v):
    weights = hide(scores_of(x, memory, w_q, w_k), mask).softmax(-1)
    return weights @ torch.where(mask[..., None], memory @ w_v, 0)


def with_positions(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory + torch.arange(memory.shape[1]).to(memory)[:, None] / 9, mask, w_q, w_k, w_v)


def twice_the_value(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, mask, w_q, w_k, 2 * w_v)


def a_detached_result(*inputs):
    return right(*inputs).detach()


def scores_off_by_a_factor(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, mask, w_q, 1.1 * w_k, w_v)


def a_plain_mean(x, memory, mask, w_q, w_k, w_v):
    return right(torch.zeros_like(x), memory, mask, w_q, w_k, w_v)


def queries_by_w_k_and_keys_by_w_q(x, memory, mask, w_q, w_k, w_v):
    return right(x, memory, mask, w_k, w_q, w_v)


def both_by(which):
    return lambda x, memory, mask, w_q, w_k, w_v: right(x, memory, mask, *[(w_q, w_k)[which]] * 2, w_v)


def maximum_of_the_padding_too(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    scores = scores_of(x, memory, w_q, w_k)
    powers = (scores - scores.amax(-1, keepdim=True)).exp() * mask[:, None]
    return powers / powers.sum(-1, keepdim=True).clamp(min=1e-300) @ (memory @ w_v)


def detached(*which):
    "Cut off everywhere: some of the six inputs."
    return lambda *inputs: right(*(each.detach() if i in which else each for i, each in enumerate(inputs)))


def detached_weights(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return hide(scores_of(x, memory, w_q, w_k), mask).softmax(-1).detach() @ (memory @ w_v)


def keys_of_a_detached_memory(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return hide(scores_of(x, memory.detach(), w_q, w_k), mask).softmax(-1) @ (memory @ w_v)


def clamped_queries(x, *others):
    return right(x.clamp(-5, 5), *others)


def clamped_scores(x, memory, mask, w_q, w_k, w_v):
    memory = zeroed(memory, mask)
    return hide(scores_of(x, memory, w_q, w_k).clamp(-50, 50), mask).softmax(-1) @ (memory @ w_v)


def cleaned(**values):
    "In place of zeroing the padding, everything that is not finite is replaced."
    def read_memory(x, memory, mask, w_q, w_k, w_v):
        memory = memory.nan_to_num(**values)
        weights = hide(scores_of(x, memory, w_q, w_k), mask).softmax(-1).masked_fill(~mask[:, None], 0)
        return weights @ (memory @ w_v)

    return read_memory


def clamped_memory(x, memory, *others):
    return right(x, memory.clamp(-100, 100), *others)


def real_nans_replaced(x, memory, *others):
    return right(x, memory.nan_to_num(), *others)


def padding_pulled_along(x, memory, mask, w_q, w_k, w_v):
    memory = torch.where(mask[..., None] | memory.isfinite(), memory, 0)
    memory = memory + (zeroed(memory, mask) - memory).detach()    # 0 going forward, the average going back
    return hide(scores_of(x, memory, w_q, w_k), mask).softmax(-1) @ (memory @ w_v)


WRONG = {
    "no scale": (no_scale, SCALE),
    "scale of d_model": (scale_of_d_model, SCALE),
    "divided by head_dim": (divided_by_head_dim, SCALE),
    "softmax over the queries": (softmax_over(1), QUERIES),
    "softmax over the queries, −inf": (softmax_over(1, -math.inf), QUERIES),
    "softmax over the batch": (softmax_over(0), BATCH),
    "no softmax": (no_softmax, ONE),
    "a plain mean": (a_plain_mean, ANOTHER),
    "w_q and w_k exchanged": (queries_by_w_k_and_keys_by_w_q, PROJECTIONS),
    "both by w_q": (both_by(0), PROJECTIONS),
    "both by w_k": (both_by(1), PROJECTIONS),
    "mask ignored": (mask_ignored, FILLING),
    "mask negated": (mask_negated, MEANING),
    "mask negated in the scores": (mask_negated_in_the_scores, MEANING),
    "mask on queries": (mask_on_queries, FORM),
    "causal mask, upper left": (causal(lambda t, s: 0), LAST),
    "causal mask, lower right": (causal(lambda t, s: s - t), LAST),
    "−inf and all padding": (softmax_over(-1, -math.inf), ALL),
    "mask after softmax": (mask_after_the_softmax, MORE),
    "zeroed and not masked": (padding_zeroed_and_not_masked, MORE),
    "padding not zeroed": (padding_not_zeroed, FILLING),
    "keys not zeroed": (keys_not_zeroed, GRADIENTS),
    "K and V swapped": (keys_and_values_swapped, FORM),
    "q from memory": (query_from_memory, FORM),
    "batch mixed": (first_example_for_all, BATCH),
    "float32 inside": (float32_inside, FORMULA),
    "always float64": (always_float64, SINGLE),
    "in place": (in_place, KEPT),
    "no maximum taken": (by_hand_without_maximum, LARGE),
    "positions added": (with_positions, SHUFFLED),
    "hidden scores of −30": (filled_with(-30.0), LOW),
    "hidden scores of −1000": (filled_with(-1000.0), LOW),
    "hidden scores of −10000": (filled_with(-1e4), LOW),
    "maximum of the padding too": (maximum_of_the_padding_too, LOW),
    "detached": (a_detached_result, LEARNING),
    "detached weights": (detached_weights, LEARNING),
    "detached queries": (detached(0, 3), LEARNING),
    "detached x": (detached(0), LEARNING),
    "detached memory": (detached(1), LEARNING),
    "detached w_v": (detached(5), LEARNING),
    "keys of a detached memory": (keys_of_a_detached_memory, LEARNING),
    "padding pulled along": (padding_pulled_along, GRADIENTS),
    "clamped x": (clamped_queries, REAL),
    "clamped memory": (clamped_memory, REAL),
    "real NaNs replaced": (real_nans_replaced, REAL),
    "clamped scores": (clamped_scores, LARGE),
    "NaN and ∞ replaced": (cleaned(nan=0, posinf=0), FILLING),
    "NaN, ∞ and −∞ replaced": (cleaned(nan=0, posinf=0, neginf=0), FILLING),
    "a factor": (scores_off_by_a_factor, FORMULA),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_wrong_function_breaks_first_the_law_meant_for_it_and_few_others(name):
    function, meant = WRONG[name]
    found = broken(function)
    assert found[0] == meant
    assert len(found) <= {MEANING: 13, QUERIES: 8, PROJECTIONS: 6}.get(meant, 5)


def test_every_law_is_the_first_that_some_wrong_function_breaks():
    assert {meant for _, meant in WRONG.values()} == {each.name for each in check_reading.READ_MEMORY} | {KEPT}


def test_a_cut_is_told_by_the_names_of_what_it_cuts_off():
    for function, names in ((detached_weights, "x, w_q, w_k"), (detached(1), "memory"), (detached(3), "w_q")):
        assert f"no gradient reaches {names} " in " ".join(quietly(check.read_memory, function).text.split())


def test_a_slip_of_scale_is_told_by_its_name():
    known = {"not divided": no_scale, "divided by √d_model": scale_of_d_model}
    known |= {"divided by head_dim": divided_by_head_dim}
    for words, function in known.items():
        assert f"it is what comes when they are {words}" in " ".join(quietly(check.read_memory, function).text.split())


# Pencil and paper.
@pytest.mark.parametrize("kind", [tuple, list, torch.tensor, np.array])
def test_the_right_weights_pass(kind):
    for answer in ([0.27, 0.73, 0], [0.269, 0.731, 0]):
        assert quietly(check.padded_weights, kind(answer))


WEIGHTS = {
    "no division": ((0.12, 0.88, 0.0), 4, "without the division by √4"),
    "masked after the softmax": ((0.02, 0.05, 0.0), 3, "set to 0 after the softmax"),
    "column 1 masked": ((0.02, 0.0, 0.98), 2, "when column 1 is hidden"),
    "column 0 masked": ((0.0, 0.05, 0.95), 2, "when column 0 is hidden"),
    "no mask": ((0.02, 0.05, 0.94), 2, "without a mask"),
    "scores": ((-1, 0, 3), 1, "the scores, before the softmax"),
    "undivided scores": ((-2, 0, 6), 1, "the scores, not yet divided by √4"),
    "NaN": ((math.nan, 1, 0), 1, "came"),
    "two numbers": ((0.27, 0.73), 0, "expected three numbers"),
    "a text": ("0.27, 0.73, 0", 0, "expected three numbers"),
    "a number": (0.27, 0, "expected three numbers"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_slips_with_the_pencil_are_told_by_name(name):
    answer, place, words = WEIGHTS[name]
    report = quietly(check.padded_weights, answer)
    assert report.broken[0] == check.PADDED_WEIGHTS[place].name
    assert words in " ".join(report.text.split())


# How many numbers are kept.
def kept(b, s, t, n, h, d):
    return 2 * b * t * n * h * d, 2 * b * s * n * h * d


COUNTS = {
    "keys alone": (lambda *sizes: [n // 2 for n in kept(*sizes)], "a key and a value"),
    "one layer": (lambda b, s, t, n, h, d: kept(b, s, t, 1, h, d), "every layer"),
    "memory grows": (lambda b, s, t, n, h, d: kept(b, s * t, t, n, h, d), "only the tokens'"),
    "swapped": (lambda *sizes: kept(*sizes)[::-1], "only the tokens'"),
    "one head": (lambda b, s, t, n, h, d: kept(b, s, t, n, 1, d), "every head"),
    "no batch": (lambda b, s, t, n, h, d: kept(1, s, t, n, h, d), "every example"),
    "tokens read the source": (lambda b, s, t, n, h, d: kept(b, s, t * s, n, h, d), "only the memory's"),
    "a text": (lambda *sizes: "12", "two whole numbers"),
    "texts": (lambda *sizes: [str(n) for n in kept(*sizes)], "two whole numbers"),
    "a dictionary": (lambda *sizes: dict(zip(kept(*sizes), "tm")), "two whole numbers"),
    "one sum": (lambda *sizes: sum(kept(*sizes)), "two whole numbers"),
    "a fraction": (lambda *sizes: [0.5 + n for n in kept(*sizes)], "two whole numbers"),
    "bytes": (lambda *sizes: [4 * n for n in kept(*sizes)], "a key and a value"),
}


def test_the_right_counts_pass():
    for function in (kept, lambda *sizes: torch.tensor(kept(*sizes)), lambda *sizes: [float(n) for n in kept(*sizes)]):
        assert quietly(check.numbers_kept, function)


@pytest.mark.parametrize("name", COUNTS)
def test_slips_of_counting_break_their_law(name):
    function, start = COUNTS[name]
    assert quietly(check.numbers_kept, function).broken[0].startswith(start)


# Whatever it is given.
class Evil:
    "Everything that can be asked of it raises."

    def __getattribute__(self, name):
        raise SystemExit(name)

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __getattribute__
    __hash__ = None


class EvilError(Exception):
    def __str__(self):
        raise SystemExit("no words")


class EvilCallable(Evil):
    def __call__(self, *args):
        return self


def raising(error):
    def function(*args):
        raise error

    return function


def closes_everything(*args):
    print("lost")
    sys.stdout.close()
    sys.stdout = None


def meddles(x, *args):
    torch.set_default_dtype(torch.float16)
    torch.set_grad_enabled(False)
    torch.manual_seed(7)
    warnings.simplefilter("error")
    return x


def deep(*args):
    return deep(*args)


def endless(*args):
    yield from itertools.count()


nested: list = []
nested.append(nested)

JUNK = [
    None, ..., NotImplemented, 0, 1.5, math.nan, "text", b"bytes", [], {}, set(), object(), object, type, nested,
    10**5000, torch.zeros(3), torch.zeros(3, dtype=torch.complex64), torch.zeros(2, 2).to_sparse(),
    torch.empty(3, device="meta"), np.zeros(3), np.array(["a", "b", "c"]), Evil(), EvilCallable(), Evil, EvilError,
    nn.Linear(3, 3), len, print, dict, int, lambda: 0, lambda *args: None, lambda *args: ..., lambda *args: args,
    lambda *args: args[0], lambda *args: Evil(), lambda *args: np.zeros(3), lambda *args: [1, 2, 3],
    lambda *args: "text", lambda *args: math.nan, lambda **kw: 0, lambda x, *args: x * math.nan,
    lambda *args: torch.zeros(2, 3, 3), lambda *args: torch.zeros(2, 3, 3, device="meta"),
    lambda *args: torch.zeros(2, 3, 3).to_sparse(), lambda *args: torch.zeros(2, 3, 3).int(),
    lambda *args: torch.zeros(2, 3, 3, dtype=torch.complex64),
    lambda *args: torch.nested.nested_tensor([torch.ones(2)]), raising(NotImplementedError),
    raising(EvilError()), raising(SystemExit(3)), raising(GeneratorExit()),
    raising(ExceptionGroup("several", [ValueError("a")])), raising(MemoryError()), raising(Broken("mine")),
    raising(StopIteration()), closes_everything, meddles, deep, endless, functools.partial(right, 1),
]  # fmt: skip


@pytest.mark.parametrize("checker", CHECKERS)
@pytest.mark.parametrize("number", range(len(JUNK)))
def test_a_check_never_raises(checker, number):
    dtype, stdout, filters = torch.get_default_dtype(), sys.stdout, list(warnings.filters)
    state = torch.get_rng_state()
    report = quietly(checker, JUNK[number])
    assert not report and not report.passed
    assert torch.get_default_dtype() == dtype and sys.stdout is stdout and warnings.filters == filters
    assert torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), state)
    assert "0x" not in report.text and all(len(line) <= 90 for line in report.text.splitlines())


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_bad_hint_is_answered_in_words(checker):
    for hint in [0, 4, -1, True, 1.0, "2", None, Evil(), [1], torch.tensor(1)]:
        text = quietly(checker, None, hint=hint).text
        assert text.startswith("hint is ") and "give 1 (a nudge), 2 (where to look) or 3 (nearly the code)" in text
        assert "Hint 1 of 3" in text


def test_a_broken_function_is_told_even_where_it_exits():
    assert "it raised SystemExit: 3" in quietly(check.read_memory, raising(SystemExit(3))).text


def test_a_check_leaves_everything_as_it_was():
    dtype = torch.get_default_dtype()
    quietly(check.read_memory, meddles)
    assert torch.get_default_dtype() == dtype and torch.is_grad_enabled()


def test_only_lists_tensors_and_arrays_are_answers():
    for answer in (iter([0.27, 0.73, 0]), {0.27: 0, 0.73: 0, 0: 0}, "123"):
        assert "expected three numbers" in quietly(check.padded_weights, answer).text
    assert check.floats(iter([0.27])) == check.floats("12") == [] and check.floats((1, 2)) == [1, 2]


def test_only_an_interrupt_passes_through(capsys):
    for checker in CHECKERS[1:]:
        with pytest.raises(KeyboardInterrupt):
            checker(raising(KeyboardInterrupt()))
    assert not torch.is_inference_mode_enabled() and capsys.readouterr().out == ""


def test_a_stream_that_cannot_be_written_to_is_no_reason_to_raise():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError("no space left")

    with contextlib.redirect_stdout(Full()):
        assert check.read_memory(right)


@pytest.mark.parametrize("checker", CHECKERS)
def test_an_untouched_stub_gets_a_short_report(checker):
    stubs = [None, ..., NotImplemented, (None, None, None), [..., ...]]
    if checker is not check.padded_weights:
        stubs += [lambda *args: None, lambda *args: (..., ...), raising(NotImplementedError())]
    for stub in stubs:
        report = quietly(checker, stub)
        assert not report and report.broken == () and "is still to be written" in report.text
        assert len(report.text.splitlines()) <= 4


def test_one_hint_of_the_grade_that_was_asked_for():
    hints = next(each.hints for each in check_reading.READ_MEMORY if each.name == MORE)
    texts = [" ".join(quietly(check.read_memory, mask_after_the_softmax, hint).text.split()) for hint in (1, 2, 3)]
    for i, text in enumerate(texts):
        assert [hint in text for hint in hints] == [i == j for j in range(3)]
        assert (f"check.read_memory(yours, hint={i + 2})" in text) == (i < 2)


INPUTS = "The inputs: from annotated_decoder.check.reading_cases import case, padded"


@pytest.mark.parametrize("name", WRONG)
def test_a_report_that_names_a_case_ends_with_where_to_get_it(name):
    function, meant = WRONG[name]
    report = quietly(check.read_memory, function)
    *others, last = report.text.splitlines()
    raised = "it raised" in report.text    # then the reader's line is named, in place of a case
    assert INPUTS not in others and (last == INPUTS) == (meant != KEPT and not raised)
    for each in report.laws:
        assert each.named == each.case.startswith(("case(", "padded("))
    imported: dict = {}
    exec(INPUTS.removeprefix("The inputs: "), imported)
    for call in {re.match(r"(?:case|padded)\(.*?\)", each.case)[0] for each in report.laws if each.named}:
        assert set(eval(call, imported | {"torch": torch})) == {*reading_cases.case(0)}


def test_where_no_case_is_named_nothing_is_said_of_inputs():
    for answer in (right, None, 7, lambda *args: None, raising(ValueError("x")), in_place):
        assert "The inputs" not in quietly(check.read_memory, answer).text
    for checker in CHECKERS[:2]:
        assert "The inputs" not in quietly(checker, raising(ValueError("x"))).text


def test_whoever_has_not_begun_is_told_how_to():
    for grade, words in ((1, "dot product of the query with each key"), (2, "√4 = 2"), (3, "weights = (exp")):
        assert words in " ".join(quietly(check.padded_weights, None, grade).text.split())


def test_a_report_is_the_same_every_time():
    for function, _ in WRONG.values():
        torch.rand(3)
        assert quietly(check.read_memory, function).text == quietly(check.read_memory, function).text


def test_a_report_holds_no_noise_of_rounding():
    def noisy(*inputs):
        return no_scale(*inputs) * (1 + 3e-8)

    assert quietly(check.read_memory, noisy).text == quietly(check.read_memory, no_scale).text
    assert [number(v) for v in (0.12349, -1e-9, 2.0, 1234567.8, -math.inf, math.nan, 0.0005, 1200.0)] == [
        "0.123", "0", "2", "1.235e+06", "-inf", "nan", "0.001", "1200",
    ]  # fmt: skip


def test_a_report_names_the_readers_own_line():
    def read_memory(x, *others):
        return helper(x)

    def helper(x):
        return x.view(7, 7)    # here

    report = quietly(check.read_memory, read_memory)
    line = helper.__code__.co_firstlineno + 1
    assert f"\n             in your line {line}: return x.view(7, 7)" in report.text
    assert [each.outcome for each in report.laws] == ["broken"] + ["not tried"] * 20


def test_what_the_reader_prints_is_kept_apart():
    def chatty(*inputs):
        print("shape", tuple(inputs[0].shape))
        return right(*inputs)

    assert "It printed: shape (2, 3, 5)" in quietly(check.read_memory, chatty).text


def test_a_check_can_be_asked_for_anywhere():
    with torch.no_grad():
        assert quietly(check.read_memory, right)
    with torch.inference_mode():
        assert quietly(check.read_memory, right)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert quietly(check.read_memory, right)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_every_call_gets_copies_and_the_first_change_is_named():
    yours = Tried(in_place)
    c = reading_cases.padded(0)
    copies = {name: value.clone() for name, value in c.items()}
    yours(*c.values())
    assert yours.changed == "memory" and all(torch.equal(c[name], copies[name]) for name in c)
    for change in (lambda x: x.unsqueeze_(0), lambda x: x.mul_(math.nan), lambda x: x.zero_()):
        yours = Tried(change)
        yours(torch.ones(2))
        assert yours.changed == "x"
    yours = Tried(lambda x, y: y.append(1) or 3)
    yours(torch.ones(2), [0])
    assert yours.changed == "y"


def test_a_report_is_short_where_it_is_shown():
    report = quietly(check.read_memory, no_scale)
    assert repr(report) == "<Report: 19 of 21 laws hold>"
    assert report._ipython_display_() is None
    with pytest.raises(AttributeError):
        report.text = "other"


def test_a_law_whose_own_trial_fails_is_broken_and_says_so():
    @law("first", "a", "b", "c")
    def first(yours):
        pass

    @law("second", "a", "b", "c")
    def second(yours):
        return 1 / 0

    report = quietly(check_function, right, (first, second), "check_this")
    assert report.broken == ("second",) and "could not be tried: ZeroDivisionError: division by zero" in report.text
    assert report.text.startswith("this: ")
    assert quietly(checked, 3, (first,), "check_this")


def test_a_difference_is_placed_where_it_can_be_seen():
    expected = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    tiny = expected.clone()
    tiny[0, 0] += 1e-6
    with pytest.raises(Broken, match="off by less than 0.001"):
        must_equal(tiny, expected, "here")
    tiny[1, 0] = math.nan
    with pytest.raises(Broken, match=r"here: expected 3 at \[1, 0\], came nan"):
        must_equal(tiny, expected, "here")
    must_equal(tiny, tiny, "a NaN equals a NaN")
    assert described(Evil()) == "something that cannot be described"
    assert error_text(EvilError()) == "an error that cannot say what it is"
