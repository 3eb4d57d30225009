"""A checker passes what is right, names the law that a wrong answer breaks, and never raises."""

import contextlib
import functools
import io
import itertools
import json
import math
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from annotated_decoder import check
from annotated_decoder.attention import attention as fused
from annotated_decoder.attention import attention_weights, causal_mask
from annotated_decoder.caching import Cache
from annotated_decoder.check import (
    ablations,
    attention,
    bug_museum,
    caching,
    decoder,
    embedding,
    encoder,
    encoder_outputs,
    fast_decoding,
    generation,
    looking_inside,
    normalization,
    pretrained,
    primer,
    projection,
    scaling_out,
    softmax,
    strategies,
    tour,
    training,
)
from annotated_decoder.check import cross_attention as exercises
from annotated_decoder.check.laws import Broken, Tried, describe_error, law, must_equal, say_number, try_laws
from annotated_decoder.encoder_outputs import END, PAD, START, pad
from annotated_decoder.projection import Projection
from annotated_decoder.softmax import cross_entropy

BY_HAND = [
    check.ends_here,
    check.mean_surprise,
    check.n_padding,
    check.longer_query,
    check.padded_weights,
    check.two_positions,
    check.one_sublayer,
    check.pre_norm_sum,
    check.gpt2_size,
    check.tied_bytes,
    check.sharper_share,
    check.ended_share,
    check.cache_size,
    check.winner_share,
    check.least_loss,
    check.parted_by_chance,
    check.columns_in_effect,
    check.softmaxed_floor,
    check.bytes_of_a_step,
    check.tied_penalty,
    check.least_cards,
]
CHECKERS = [
    *BY_HAND,
    *(check.say, check.write_out),
    *(check.to_shares, check.slope, check.descend),
    *(check.padded_left, check.spoken),
    *(check.weights_of, check.window_mask, check.heads_apart),
    *(check.numbers_kept, check.read_memory),
    *(check.turned, check.placed),
    *(check.rms_in_half, check.climbed),
    *(check.lens, check.pre_norm_layer),
    *(check.without_memory, check.prompt_mask, check.pooled),
    *(check.best_tokens, check.two_ends),
    *(check.masked_loss, check.drawn),
    *(check.say_all, check.write_batch),
    *(check.own_cache, check.moved_rows),
    *(check.min_p, check.slots_apart),
    *(check.one_step, check.validation_loss),
    *(check.p_value, check.gains),
    *(check.without_head, check.other_columns),
    *(check.go_on, check.sees_future),
    *(check.to_whole, check.filled_part),
    *(check.mean_gradient, check.items_of),
]
(
    FORM, MEANING, ONE, LAST, PROJECTIONS, ALONE, SCALE, FILLING, SHUFFLED, ALL, REAL, MORE, FORMULA, LEARNING,
    GRADIENTS, KEPT,
) = (each.name for each in exercises.READ_MEMORY)  # fmt: skip
LOWEST = torch.finfo(torch.float64).min


def quietly(checker, *args, **kwargs):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        report = checker(*args, **kwargs)
    assert out.getvalue() == report.text + "\n"
    return report


def words(checker, *args, **kwargs):
    return " ".join(quietly(checker, *args, **kwargs).text.split())


def zero(memory, mask):
    return torch.where(mask[..., None], memory, 0)


def hide(scores, mask, lowest=LOWEST):
    return scores.masked_fill(~mask[:, None], max(lowest, torch.finfo(scores.dtype).min))


def reading(inputs=lambda *six: six, zero=zero, weigh=lambda scores, mask: hide(scores, mask).softmax(-1)):
    "What is right, and around it: other inputs, another padding, other weights."
    def read_memory(*six):
        x, memory, mask, w_q, w_k, w_v = inputs(*six)
        memory = zero(memory, mask)
        return weigh((x @ w_q) @ (memory @ w_k).mT / w_q.shape[1] ** 0.5, mask) @ (memory @ w_v)

    return read_memory


def after(change):
    return lambda *six: change(right(*six))


def powers(scores, mask, highest=None):
    highest = scores.amax(-1, keepdim=True) if highest is None else highest
    found = (scores - highest).exp() * mask[:, None]
    total = found.sum(-1, keepdim=True)
    return found / torch.where(total > 0, total, 1)


def logarithm(scores, mask):
    scores = hide(scores, mask)
    return (scores - scores.logsumexp(-1, keepdim=True)).exp()


def added(scores, mask):
    bias = torch.zeros_like(scores[:, :1]).masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
    return (scores + bias).softmax(-1)


def by_the_package(x, memory, mask, w_q, w_k, w_v):
    memory = zero(memory, mask)
    return fused(x @ w_q, memory @ w_k, memory @ w_v, mask[:, None])


def by_torch_with_an_axis_of_heads(x, memory, mask, w_q, w_k, w_v):
    memory, seen = memory.masked_fill(~mask[..., None], 0), mask.any(-1)[:, None, None]
    q, k, v = ((a @ w)[:, None] for a, w in ((x, w_q), (memory, w_k), (memory, w_v)))
    found = nn.functional.scaled_dot_product_attention(q, k, v, (mask[:, None] | ~seen)[:, None])
    return found[:, 0].masked_fill(~seen, 0)


def by_einsum(x, memory, mask, w_q, w_k, w_v):
    memory = zero(memory, mask)
    scores = torch.einsum("btd,dh,bse,eh->bts", x, w_q, memory, w_k) / math.sqrt(w_q.shape[1])
    return torch.einsum("bts,bsd,dv->btv", hide(scores, mask).softmax(-1), memory, w_v)


def column_by_column(x, memory, mask, w_q, w_k, w_v):
    found = x.new_zeros(*x.shape[:2], w_v.shape[1])
    for b, may_look in enumerate(mask):
        if may_look.any():
            real = memory[b, may_look]
            for t, row in enumerate(x[b]):
                found[b, t] = ((real @ w_k) @ (row @ w_q) / w_q.shape[1] ** 0.5).softmax(0) @ (real @ w_v)
    return found


right = reading()
RIGHT = {
    "plain": right, "the package": by_the_package, "an axis of heads": by_torch_with_an_axis_of_heads,
    "einsum": by_einsum, "columns": column_by_column, "powers": reading(weigh=lambda s, m: powers(hide(s, m), m)),
    "a logarithm": reading(weigh=logarithm), "added": reading(weigh=added),
    "one query at a time": lambda x, *others: torch.cat([right(row, *others) for row in x.split(1, 1)], 1),
    "NaN swept under": reading(weigh=lambda s, m: s.masked_fill(~m[:, None], -math.inf).softmax(-1).nan_to_num()),
    "float64 and back": lambda x, m, k, *w: right(x.double(), m.double(), k, *(a.double() for a in w)).to(x.dtype),
    "−1e9": reading(weigh=lambda s, m: hide(s, m, -1e9).softmax(-1)),
    "the lowest of float32": reading(weigh=lambda s, m: hide(s, m, torch.finfo(torch.float32).min).softmax(-1)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_solutions_pass(name):
    report = quietly(check.read_memory, RIGHT[name])
    assert report and report.passed and report.broken == () and "all 16 laws hold" in report.text
    assert "Hint" not in report.text


def test_the_loops_are_the_formula():
    for seed in range(3):
        c = exercises.padded(seed)
        assert torch.allclose(exercises.read_by_loops(**c), right(*c.values()))


def scaled(factor):
    "The scores times a factor of (x, w_q)."
    return reading(lambda x, m, k, w_q, *w: (x, m, k, w_q * factor(x, w_q), *w))


def causal(diagonal):
    def weigh(scores, mask):
        seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(diagonal(*scores.shape[1:]))
        return hide(scores, mask).masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)

    return reading(weigh=weigh)


def softened(axis, lowest=LOWEST):
    return reading(weigh=lambda s, m: hide(s, m, lowest).softmax(axis))


def infinite(axis, negated=False):
    return reading(weigh=lambda s, m: s.masked_fill((m == negated)[:, None], -math.inf).softmax(axis))


def detached(*which):
    "Cut off everywhere: some of the six inputs."
    return reading(lambda *six: tuple(each.detach() if i in which else each for i, each in enumerate(six)))


def cleaned(**values):
    "In place of zeroing the padding, everything that is not finite is replaced."
    return reading(zero=lambda m, k: m.nan_to_num(**values),
                   weigh=lambda s, k: hide(s, k).softmax(-1).masked_fill(~k[:, None], 0))


def in_place(x, memory, mask, *w):
    memory[~mask] = 0
    return right(x, memory, mask, *w)


def keys_not_zeroed(x, memory, mask, w_q, w_k, w_v):
    scores = (x @ w_q) @ (memory @ w_k).mT / w_q.shape[1] ** 0.5
    return hide(scores, mask).softmax(-1) @ torch.where(mask[..., None], memory @ w_v, 0)


def keys_of_a_detached_memory(x, memory, mask, w_q, w_k, w_v):
    memory = zero(memory, mask)
    return hide((x @ w_q) @ (memory.detach() @ w_k).mT / w_q.shape[1] ** 0.5, mask).softmax(-1) @ (memory @ w_v)


def pulled_along(memory, mask):
    memory = torch.where(mask[..., None] | memory.isfinite(), memory, 0)
    return memory + (zero(memory, mask) - memory).detach()    # 0 going forward, the average going back


def mask_on_queries(x, memory, mask, w_q, w_k, w_v):
    return ((x @ w_q) @ (memory @ w_k).mT).masked_fill(~mask[:, :, None], LOWEST).softmax(-1) @ (memory @ w_v)


WRONG = {
    "no scale": (scaled(lambda x, w: w.shape[1] ** 0.5), SCALE),
    "scale of d_model": (scaled(lambda x, w: (w.shape[1] / x.shape[-1]) ** 0.5), SCALE),
    "divided by head_dim": (scaled(lambda x, w: w.shape[1] ** -0.5), SCALE),
    "softmax over the queries": (softened(1), ALONE),
    "softmax over the queries, −inf": (infinite(1), ALONE),
    "softmax over the batch": (softened(0), ALONE),
    "no softmax": (reading(weigh=lambda s, m: s), ONE),
    "a plain mean": (scaled(lambda x, w: 0), PROJECTIONS),
    "w_q and w_k exchanged": (reading(lambda x, m, k, q, w, v: (x, m, k, w, q, v)), PROJECTIONS),
    "both by w_q": (reading(lambda x, m, k, q, w, v: (x, m, k, q, q, v)), PROJECTIONS),
    "both by w_k": (reading(lambda x, m, k, q, w, v: (x, m, k, w, w, v)), PROJECTIONS),
    "mask ignored": (reading(lambda x, m, k, *w: (x, m, torch.ones_like(k), *w)), FILLING),
    "mask negated": (reading(lambda x, m, k, *w: (x, m, ~k, *w)), MEANING),
    "mask negated in the scores": (infinite(-1, negated=True), MEANING),
    "mask on queries": (mask_on_queries, FORM),
    "causal mask, upper left": (causal(lambda t, s: 0), LAST),
    "causal mask, lower right": (causal(lambda t, s: s - t), LAST),
    "−inf and all padding": (infinite(-1), ALL),
    "mask after softmax": (reading(weigh=lambda s, m: s.softmax(-1) * m[:, None]), MORE),
    "zeroed and not masked": (reading(weigh=lambda s, m: s.softmax(-1)), MORE),
    "padding not zeroed": (reading(zero=lambda memory, mask: memory), FILLING),
    "keys not zeroed": (keys_not_zeroed, GRADIENTS),
    "K and V swapped": (reading(lambda x, m, k, q, w, v: (x, m, k, q, v, w)), FORM),
    "q from memory": (reading(lambda x, m, *others: (m, m, *others)), FORM),
    "batch mixed": (reading(lambda x, m, k, *w: (x, m[:1].expand(m.shape), k[:1].expand(k.shape), *w)), ALONE),
    "float32 inside": (reading(lambda x, m, k, *w: (x.float(), m.float(), k, *(a.float() for a in w))), FORMULA),
    "always float64": (reading(lambda x, m, k, *w: (x.double(), m.double(), k, *(a.double() for a in w))), FORMULA),
    "in place": (in_place, KEPT),
    "no maximum taken": (reading(weigh=lambda s, m: powers(s, m, 0)), REAL),
    "positions added": (reading(lambda x, m, *w: (x, m + torch.arange(m.shape[1]).to(m)[:, None] / 9, *w)), SHUFFLED),
    "hidden scores of −30": (softened(-1, -30.0), MORE),
    "hidden scores of −1000": (softened(-1, -1000.0), MORE),
    "hidden scores of −10000": (softened(-1, -1e4), MORE),
    "maximum of the padding too": (reading(weigh=powers), MORE),
    "detached": (after(torch.Tensor.detach), LEARNING),
    "detached weights": (reading(weigh=lambda s, m: hide(s, m).softmax(-1).detach()), LEARNING),
    "detached queries": (detached(0, 3), LEARNING),
    "detached x": (detached(0), LEARNING),
    "detached memory": (detached(1), LEARNING),
    "detached w_v": (detached(5), LEARNING),
    "keys of a detached memory": (keys_of_a_detached_memory, LEARNING),
    "padding pulled along": (reading(zero=pulled_along), GRADIENTS),
    "clamped x": (reading(lambda x, *others: (x.clamp(-5, 5), *others)), REAL),
    "clamped memory": (reading(lambda x, m, *others: (x, m.clamp(-100, 100), *others)), REAL),
    "real NaNs replaced": (reading(lambda x, m, *others: (x, m.nan_to_num(), *others)), REAL),
    "clamped scores": (reading(weigh=lambda s, m: hide(s.clamp(-50, 50), m).softmax(-1)), REAL),
    "NaN and ∞ replaced": (cleaned(nan=0, posinf=0), FILLING),
    "NaN, ∞ and −∞ replaced": (cleaned(nan=0, posinf=0, neginf=0), FILLING),
    "a factor": (scaled(lambda x, w: 1.1), FORMULA),
    "twice the value": (after(lambda found: 2 * found), ONE),
}
wrong_functions = pytest.mark.parametrize("function, meant", WRONG.values(), ids=WRONG)


@wrong_functions
def test_each_wrong_function_breaks_first_the_law_meant_for_it_and_few_others(function, meant):
    found = quietly(check.read_memory, function).broken
    assert found[0] == meant
    assert len(found) <= {MEANING: 10, ALONE: 7}.get(meant, 5)


# Pencil and paper.
@pytest.mark.parametrize("kind", [tuple, list, torch.tensor, np.array])
def test_the_right_weights_pass(kind):
    for answer in ([0.27, 0.73, 0], [0.269, 0.731, 0]):
        assert quietly(check.padded_weights, kind(answer))


WEIGHTS = {
    "no division": ((0.12, 0.88, 0.0), 3, "without the division by √4"),
    "masked after the softmax": ((0.02, 0.05, 0.0), 1, "set to 0 after the softmax"),
    "column 1 masked": ((0.02, 0.0, 0.98), 2, "(0.02, 0, 0.98) came"),
    "no mask": ((0.02, 0.05, 0.94), 2, "without a mask"),
    "scores": ((-1, 0, 3), 1, "the scores, not weights"),
    "undivided scores": ((-2, 0, 6), 1, "the scores, not divided by √4"),
    "NaN": ((math.nan, 1, 0), 1, "came"),
    "two numbers": ((0.27, 0.73), 0, "expected three numbers"),
    "a generator": (itertools.count(), 0, "expected three numbers"),
    "a dictionary": ({0.27: 0, 0.73: 0, 0: 0}, 0, "expected three numbers"),
    "a text": ("123", 0, "expected three numbers"),
    "a number": (0.27, 0, "expected three numbers"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_slips_with_the_pencil_are_told_by_name(name):
    answer, place, told = WEIGHTS[name]
    assert quietly(check.padded_weights, answer).broken[0] == exercises.PADDED_WEIGHTS[place].name
    assert told in words(check.padded_weights, answer)


# How many numbers are kept.
def kept(b, s, t, n, h, d):
    return 2 * b * t * n * h * d, 2 * b * s * n * h * d


COUNTS = {
    "keys alone": (lambda *sizes: [n // 2 for n in kept(*sizes)], 4),
    "bytes": (lambda *sizes: [4 * n for n in kept(*sizes)], 4),
    "one layer": (lambda b, s, t, n, h, d: kept(b, s, t, 1, h, d), 3),
    "one head": (lambda b, s, t, n, h, d: kept(b, s, t, n, 1, d), 3),
    "heads of width 1": (lambda b, s, t, n, h, d: kept(b, s, t, n, h, 1), 3),
    "no batch": (lambda b, s, t, n, h, d: kept(1, s, t, n, h, d), 3),
    "memory grows": (lambda b, s, t, n, h, d: kept(b, s * t, t, n, h, d), 1),
    "swapped": (lambda *sizes: kept(*sizes)[::-1], 1),
    "tokens read the source": (lambda b, s, t, n, h, d: kept(b, s, t * s, n, h, d), 2),
    "a text": (lambda *sizes: "12", 0),
    "texts": (lambda *sizes: [str(n) for n in kept(*sizes)], 0),
    "a dictionary": (lambda *sizes: dict(zip(kept(*sizes), "tm")), 0),
    "one sum": (lambda *sizes: sum(kept(*sizes)), 0),
    "a fraction": (lambda *sizes: [0.5 + n for n in kept(*sizes)], 0),
    "infinite": (lambda *sizes: [math.inf, math.nan], 0),
}


def test_the_right_counts_pass():
    for function in (kept, lambda *sizes: torch.tensor(kept(*sizes)), lambda *sizes: [float(n) for n in kept(*sizes)]):
        assert quietly(check.numbers_kept, function)


@pytest.mark.parametrize("name", COUNTS)
def test_slips_of_counting_break_their_law(name):
    function, place = COUNTS[name]
    assert quietly(check.numbers_kept, function).broken[0] == exercises.NUMBERS_KEPT[place].name


def test_every_law_is_the_first_that_some_wrong_answer_breaks():
    assert {meant for _, meant in WRONG.values()} == {each.name for each in exercises.READ_MEMORY}
    assert {place for _, place, _ in WEIGHTS.values()} == {*range(len(exercises.PADDED_WEIGHTS))}
    assert {place for _, place in COUNTS.values()} == {*range(len(exercises.NUMBERS_KEPT))}


# Those of the tour.
def loop(step, start, end, limit, first=None, pick=torch.argmax, reads=lambda tokens: tokens, twice=0, returns=None):
    tokens = [start] if first is None else first(start, end)
    for _ in range(limit):
        chosen = int(pick(step(reads(tokens))))
        tokens.append(chosen)
        if twice:
            step(reads(tokens[:-1]))
        if chosen == end:
            break
    return [t for t in tokens[1:] if t != end] if returns is None else returns(tokens)


def to_the_limit(step, start, end, limit):
    tokens = [start]
    for _ in range(limit):
        tokens.append(int(step(tokens).argmax()))
    return [t for t in tokens[1:] if t != end]


def to_the_end(step, start, end, limit):
    tokens = [start]
    while tokens[-1] != end:
        tokens.append(int(step(tokens).argmax()))
    return tokens[1:-1]


def write(decode, memory, limit, at=-1, pick=torch.argmax, stops=(END,), more=0):
    tokens = [START]
    while tokens[-1] not in stops and len(tokens) <= limit + more:
        tokens.append(pick(decode(torch.tensor([tokens]), memory)[0, at]).item())
    return tokens[1:]


TOUR = {
    "both": (check.ends_here, [0.42, 0.58], 0, "expected one number"),
    "a power": (check.ends_here, 2.61, 1, "that is e to the power of its logit, before the division"),
    "no number": (check.ends_here, math.nan, 1, "nan came"),
    "all powers": (check.ends_here, 6.19, 1, "that is all five powers of e together"),
    "a logit": (check.ends_here, 0.96, 2, "that is its logit"),
    "going on": (check.ends_here, 0.58, 2, "that is that the loop goes on"),
    "of a": (check.ends_here, 0.33, 2, "that is the probability of a"),
    "of 2": (check.ends_here, 0.34, 2, "that is"),
    "of three": (check.ends_here, 0.52, 2, "that is without <pad> and <s>"),
    "a text": (check.say, lambda *four: "414", 0, "expected a list of tokens, came '414'"),
    "texts": (check.say, lambda *four: [*"414"], 0, "expected a list of tokens"),
    "nothing first": (check.say, lambda *four: loop(*four, first=lambda start, end: [], returns=lambda t: t[:-1]), 1,
                      "the first call of step: expected [6], the start, came []"),
    "its own start": (check.say, lambda *four: loop(*four, first=lambda start, end: [START]), 1, "came [1]"),
    "the end first": (check.say, lambda *four: loop(*four, first=lambda start, end: [end]), 1, "came [5]"),
    "the lowest": (check.say, lambda *four: loop(*four, pick=torch.argmin), 2, "expected 4, came 7"),
    "the score": (check.say, lambda *four: loop(*four, pick=torch.max), 2, "expected 4, came 0"),
    "the newest alone": (check.say, lambda *four: loop(*four, reads=lambda tokens: tokens[-1:]), 3,
                         "what step is given in pass 1: expected [6, 4], came [4]"),
    "the start alone": (check.say, lambda *four: loop(*four, reads=lambda tokens: tokens[:1]), 3, "came nothing new"),
    "backwards": (check.say, lambda *four: loop(*four, reads=lambda tokens: tokens[::-1]), 3, "came [4, 6]"),
    "never ends": (check.say, to_the_limit, 4, "a pass after the end"),
    "with the end": (check.say, lambda *four: loop(*four, returns=lambda tokens: tokens[1:]), 5, "came [4, 1, 4, 5]"),
    "with the start": (check.say, lambda *four: loop(*four, returns=lambda tokens: tokens[:-1]), 5, "came [6, 4, 1"),
    "once each": (check.say, lambda *four: [*dict.fromkeys(loop(*four))], 5, "came [4, 1]"),
    "no limit": (check.say, to_the_end, 6, "step was called for the 41st time; the limit is 4"),
    "always one less": (check.say, lambda *four: loop(*four, returns=lambda tokens: tokens[1:-1]), 6, "came [4, 1, 4]"),
    "one too early": (check.say, lambda *four: loop(*four[:3], four[3] - 1), 6, "came [4, 1, 4]"),
    "asked twice": (check.say, lambda *four: loop(*four, twice=1), 7, "expected 4 calls, came 8"),
    "a tensor": (check.write_out, lambda *three: torch.tensor(write(*three)), 0, "expected a list of tokens"),
    "the unlikeliest": (check.write_out, lambda *three: write(*three, pick=torch.argmin), 1, "came [0"),
    "the first position": (check.write_out, lambda *three: write(*three, at=0), 2, "came [5, 5, 5, 5, 5, 5]"),
    "no end": (check.write_out, lambda *three: write(*three, stops=()), 3, "came [5, 3, 6, 2, 3, 3]"),
    "the end left out": (check.write_out, lambda *three: [t for t in write(*three) if t != END], 3, "came [5, 3, 6]"),
    "a limit of its own": (check.write_out, lambda d, m, limit: write(d, m, 60), 4, "called for the 41st time"),
    "one more": (check.write_out, lambda *three: write(*three, more=1), 4, "came [7, 7, 7, 7, 7, 7, 7]"),
}  # fmt: skip
TOUR_LAWS = {check.ends_here: tour.ENDS_HERE, check.say: tour.SAY, check.write_out: tour.WRITE_OUT}


def test_right_answers_pass_in_the_tour():
    for answer in (0.42, 0.4224, "0.42", torch.tensor(0.42)):
        assert quietly(check.ends_here, answer)
    assert quietly(check.say, loop) and quietly(check.write_out, write)
    assert quietly(check.say, lambda *four: loop(*four, reads=torch.tensor, pick=lambda scores: scores.argmax()))
    assert quietly(check.say, lambda *four: loop(*four, reads=tuple, pick=np.argmax))


# The primer's.
def down(weights, x, y, steps, rate, slopes=None, forget=True, late=False):
    slopes = slopes or (lambda w: 2 * x.T @ (x @ w - y) / len(x))
    gradient, weights = torch.zeros_like(weights), weights.clone() if forget is not None else weights
    for _ in range(steps + late):
        gradient = slopes(weights) + (0 if forget is not False else gradient)
        weights -= rate * gradient
    return weights


PRIMER = {
    "sum": (check.mean_surprise, 4.16, 2, "that is the sum of the three"),
    "bits": (check.mean_surprise, 2, 2, "that is in bits"),
    "log of the mean": (check.mean_surprise, 1.23, 2, "that is the logarithm of the mean"),
    "no minus": (check.mean_surprise, -1.39, 1, "that is the mean without the minus"),
    "NaN": (check.mean_surprise, math.nan, 1, "nan came"),
    "three numbers": (check.mean_surprise, [0.69, 1.39, 2.08], 0, "expected one number"),
    "a word": (check.mean_surprise, "much", 0, "expected one number"),
    "no keepdim": (check.to_shares, lambda s: s.exp() / s.exp().sum(-1), 0, "it raised RuntimeError"),
    "flattened": (check.to_shares, lambda s: s.softmax(-1).flatten(), 0, "(2, 3)"),
    "no exp": (check.to_shares, lambda s: s / s.sum(-1, keepdim=True), 1, "0 or less"),
    "dimension 0": (check.to_shares, lambda s: s.softmax(0), 2, "table"),
    "dimension 1": (check.to_shares, lambda s: s.softmax(min(1, s.ndim - 1)), 2, "table(2, 3, 4)"),
    "powers of 2": (check.to_shares, lambda s: (s * math.log(2)).softmax(-1), 3, "table"),
    "in place": (check.to_shares, lambda s: s.exp_().div_(s.sum(-1, keepdim=True)), 4, "was changed in place"),
    "a rise": (check.slope, lambda f, x: f(x + 1) - f(x - 1), 0, "expected 3.000000, came 6.000000"),
    "one side": (check.slope, lambda f, x: (f(x + 1e-4) - f(x)) / 1e-4, 1, "expected 0.000000, came 0.000100"),
    "the bottom only": (check.slope, lambda f, x: f(1) - f(0) if f(0) == 1 else 0, 2, "came"),
    "a large nudge": (check.slope, lambda f, x: f(x + 0.5) - f(x - 0.5), 3, "came"),
    "no number": (check.slope, lambda f, x: math.nan, 0, "came nan"),
    "one step too many": (check.descend, lambda *five: down(*five, late=True), 0, "0 steps"),
    "up": (check.descend, lambda *five: down(*five[:4], -five[4]), 1, "1 step"),
    "the sum of squares": (check.descend, lambda *five: down(*five[:4], 5 * five[4]), 1, "1 step"),
    "never forgets": (check.descend, lambda *five: down(*five, forget=False), 2, "2 steps"),
    "two steps at most": (check.descend, lambda *five: down(*five[:3], min(five[3], 2), five[4]), 3, "500 steps"),
    "its input": (check.descend, lambda *five: down(*five, forget=None), 4, "was changed in place"),
}
LAWS = {check.mean_surprise: primer.MEAN_SURPRISE, check.to_shares: primer.TO_SHARES, check.slope: primer.SLOPE,
        check.descend: primer.DESCEND}    # fmt: skip


def test_right_answers_pass_in_the_primer():
    for answer in (1.38, 1.39, 2 * math.log(2), torch.tensor(1.386), "1.39"):
        assert quietly(check.mean_surprise, answer)
    assert quietly(check.to_shares, lambda s: s.softmax(-1)) and quietly(check.descend, down)
    assert quietly(check.slope, lambda f, x: torch.tensor((f(x + 1e-5) - f(x - 1e-5)) / 2e-5))
    case = eval("table(2, 3)", {"table": primer.table})
    assert case.shape == (2, 3) and torch.equal(case, primer.table(2, 3))


# Those of Attention.
def weigh(q, k, mask, width=lambda q, k: q.shape[-1] ** 0.5, calm=True):
    scores = (q @ k.mT / width(q, k)).masked_fill(~mask, -torch.inf)
    powers = (scores - calm * scores.amax(-1, keepdim=True)).exp()
    return powers / powers.sum(-1, keepdim=True)


def window_of(n_queries, n_keys, window, begin=None, back=None):
    begin = n_keys - n_queries if begin is None else begin
    query, key = torch.arange(n_queries)[:, None] + begin, torch.arange(n_keys)
    return (key <= query) & ((query - key < window) if back is None else back(query, key, window))


def apart(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


ATTENDING = {
    "the shorter query's": (check.longer_query, 0.73, 2, "that is the weight that the shorter query gives"),
    "the other key's": (check.longer_query, 0.12, 2, "that is the other key's"),
    "powers of 2": (check.longer_query, 0.8, 2, "that is the powers of 2"),
    "no division": (check.longer_query, 7.39, 1, "that is e², before the division by the sum"),
    "twice": (check.longer_query, 1.46, 1, "that is twice the shorter query's weight"),
    "two weights": (check.longer_query, [0.88, 0.12], 0, "expected one number"),
    "k.T": (check.weights_of, lambda q, k, mask: q @ k.T, 0, "it raised RuntimeError"),
    "keys by queries": (check.weights_of, lambda *three: weigh(*three).mT, 0, "came a Tensor of shape (2, 5, 3)"),
    "the mask turned": (check.weights_of, lambda q, k, mask: weigh(q, k, ~mask), 1, "a hidden key has a weight"),
    "hidden afterwards": (check.weights_of, lambda q, k, mask: weigh(q, k, mask | True) * mask, 2, "expected 1 at"),
    "sums of columns": (check.weights_of, lambda q, k, mask: (q @ k.mT).masked_fill(~mask, -9e9).softmax(-2) * mask, 2,
                        "queries_keys(4)"),
    "the width": (check.weights_of, lambda *three: weigh(*three, lambda q, k: q.shape[-1]), 3, "queries_keys(4)"),
    "not divided": (check.weights_of, lambda *three: weigh(*three, lambda q, k: 1), 3, "queries_keys(4)"),
    "always by 2": (check.weights_of, lambda *three: weigh(*three, lambda q, k: 2), 3, "queries_keys(1)"),
    "not calmed": (check.weights_of, lambda *three: weigh(*three, calm=False), 4, "queries_keys(4, 1e4)"),
    "in place": (check.weights_of, lambda q, k, mask: weigh(q.mul_(1.0).add_(0), k, mask) + 0 * q.zero_().sum(), 5,
                 "was changed in place"),
    "zeros and ones": (check.window_mask, lambda *three: window_of(*three).float(), 0, "expected booleans"),
    "a row a key": (check.window_mask, lambda *three: window_of(*three).T, 0, "shape (5, 2)"),
    "from the upper left": (check.window_mask, lambda *three: window_of(*three, begin=0), 1, "(2, 5, 5)"),
    "both ways": (check.window_mask, lambda q, k, w: (torch.arange(k - q, k)[:, None] - torch.arange(k)).abs() < w, 1,
                  "(5, 5, 5)"),
    "one too many": (check.window_mask, lambda q, k, w: window_of(q, k, w + 1), 2, "(5, 5, 1)"),
    "no window": (check.window_mask, lambda q, k, w: window_of(q, k, k), 2, "(5, 5, 1)"),
    "side by side": (check.window_mask, lambda *three: window_of(*three, back=lambda q, k, w: q // w == k // w), 3,
                     "(5, 5, 2)"),
    "no head": (check.heads_apart, lambda x, n: x, 0, "3 heads"),
    "not exchanged": (check.heads_apart, lambda x, n: x.unflatten(-1, (n, -1)), 0, "3 heads"),
    "reshaped": (check.heads_apart, lambda x, n: x.reshape(len(x), n, x.shape[1], -1), 1, "position 2 was changed"),
    "every third column": (check.heads_apart, lambda x, n: x.unflatten(-1, (-1, n)).movedim(-1, 1), 2, "expected"),
    "its input": (check.heads_apart, lambda x, n: (apart(x, n).clone(), x.zero_())[0], 3, "was changed in place"),
}
ATTENTION_LAWS = {check.longer_query: attention.LONGER_QUERY, check.weights_of: attention.WEIGHTS_OF,
                  check.window_mask: attention.WINDOW_MASK, check.heads_apart: attention.HEADS_APART}    # fmt: skip


def test_right_answers_pass_in_attention():
    for answer in (0.88, 0.881, math.e**2 / (1 + math.e**2), torch.tensor(0.8808), "0.88"):
        assert quietly(check.longer_query, answer)
    for right in (weigh, attention_weights, lambda q, k, mask: weigh(q.float(), k.float(), mask).double()):
        assert quietly(check.weights_of, right)
    for right in (window_of, lambda q, k, w: torch.ones(q, k).tril(k - q).triu(k - q - w + 1).bool()):
        assert quietly(check.window_mask, right)
    for right in (apart, lambda x, n: torch.stack(x.chunk(n, -1), 1)):
        assert quietly(check.heads_apart, right)
    q, k = eval("queries_keys(4, 1e4)", {"queries_keys": attention.queries_keys})
    assert torch.equal(q, 1e4 * attention.queries_keys(4)[0]) and k.shape == (2, 5, 4)


# Those of Embedding and position.
def turn(x, start, place=lambda p: p, sign=1, rates=None):
    n, d = x.shape[-2:]
    rates = 10000.0 ** (-torch.arange(0, d, 2) / d) if rates is None else rates
    angles = place(torch.arange(start, start + n).double())[:, None] * rates
    a, b = x[..., ::2], x[..., 1::2]
    pairs = [a * angles.cos() - sign * b * angles.sin(), a * angles.sin() + b * angles.cos()]
    return torch.stack(pairs, -1).flatten(-2)


def halves(x, start):
    "The layout of two halves, as LLaMA's code has it."
    shuffled = x.unflatten(-1, (2, -1)).transpose(-2, -1).flatten(-2)
    return turn(shuffled, start).unflatten(-1, (-1, 2)).transpose(-2, -1).flatten(-2)


def place(tokens, rows, places, start, n=None, scale=2.0):
    n = tokens.shape[1] if n is None else n
    return rows[tokens] * scale + places[start : start + n]


PLACING = {
    "with itself": (check.two_positions, 2, 2, "that is the product of a position with itself"),
    "the fast hand": (check.two_positions, 0.54, 2, "that is that of the fast hand alone"),
    "divided": (check.two_positions, 0.77, 2, "that is divided by √4"),
    "too large": (check.two_positions, 20 * 21, 1, "420 came"),
    "two numbers": (check.two_positions, [0.54, 1.0], 0, "expected one number"),
    "the first half": (check.turned, lambda x, start: turn(x, start)[..., :3], 0, "start 0"),
    "from 1": (check.turned, lambda x, start: turn(x, start + 1), 1, "start 0"),
    "added": (check.turned, lambda x, start: x + turn(torch.ones_like(x), start), 1, "start 0"),
    "a sign": (check.turned, lambda x, start: turn(x, start, sign=-1), 2, "start 0"),
    "squared": (check.turned, lambda x, start: turn(x, start, lambda p: p**2), 3, "a query and a key at 7 places"),
    "backwards": (check.turned, lambda x, start: turn(x, start, lambda p: -p), 4, "start 0"),
    "one rate": (check.turned, lambda x, start: turn(x, start, rates=torch.ones(1)), 4, "start 0"),
    "two halves": (check.turned, halves, 4, "start 0"),
    "start forgotten": (check.turned, lambda x, start: turn(x, 0), 5, "start 3"),
    "in place": (check.turned, lambda x, start: (turn(x, start), x.zero_())[0], 6, "was changed in place"),
    "one row": (check.placed, lambda *four: place(*four)[0], 0, "four rows of four tokens"),
    "the batch's length": (check.placed, lambda *four: place(*four, n=len(four[0])), 1, "one row alone"),
    "no scale": (check.placed, lambda *four: place(*four, scale=1.0), 2, "places of zeros"),
    "no start": (check.placed, lambda t, r, p, start: place(t, r, p, 0), 3, "start 5"),
    "no place": (check.placed, lambda t, r, p, start: place(t, r, 0 * p, start), 3, "start 0"),
    "its rows": (check.placed, lambda t, r, p, s: (place(t, r, p, s), r.zero_())[0], 4, "was changed in place"),
}
EMBEDDING_LAWS = {check.two_positions: embedding.TWO_POSITIONS, check.turned: embedding.TURNED,
                  check.placed: embedding.PLACED}    # fmt: skip


def test_right_answers_pass_in_embedding():
    for answer in (1.54, 1.5403, math.cos(1) + math.cos(0.01), "1.54"):
        assert quietly(check.two_positions, answer)
    assert quietly(check.turned, turn) and quietly(check.placed, place)
    assert quietly(check.turned, lambda x, start: turn(x.float(), start).float())


# Those of Encoder outputs.
def left(rows):
    tokens, mask = pad([row[::-1] for row in rows])
    return tokens.flip(1), mask.flip(1)


def speak(ids, symbols, stops=True, special=(0, 1, 2)):
    ids = ids[: ids.index(2)] if stops and 2 in ids else ids
    return [symbols[i] for i in ids if i not in special]


READING = {
    "a list": (check.n_padding, [1, 3], 0, "expected one number"),
    "real ones": (check.n_padding, 11, 1, "that is the real ids"),
    "all": (check.n_padding, 15, 1, "that is all ids"),
    "no mask": (check.padded_left, lambda rows: left(rows)[0], 0, "expected ids and mask"),
    "a mask of numbers": (check.padded_left, lambda rows: (left(rows)[0], left(rows)[1].long()), 0, "torch.bool"),
    "on the right": (check.padded_left, pad, 1, "the row [3] became [3, 0, 0, 0]"),
    "filled with ones": (check.padded_left, lambda rows: (left(rows)[0].where(left(rows)[1], 1), left(rows)[1]), 2,
                         "became [1, 1, 1, 3]"),
    "the other mask": (check.padded_left, lambda rows: (left(rows)[0], pad(rows)[1]), 3, "of the row [3]"),
    "by the ids": (check.padded_left, lambda rows: (left(rows)[0], left(rows)[0] != 0), 3, "of the row [8, 0, 9]"),
    "emptied": (check.padded_left, lambda rows: (left(rows), rows.clear())[0], 4, "was changed in place"),
    "ids": (check.spoken, lambda ids, symbols: ids, 0, "ids [3, 4, 5]"),
    "a string": (check.spoken, lambda ids, symbols: " ".join(speak(ids, symbols)), 0, "'K AE1 T'"),
    "the start": (check.spoken, lambda *two: speak(*two, special=()), 1, "'<s>'"),
    "to the last": (check.spoken, lambda *two: speak(*two, stops=False), 2, "'K', 'T', 'AE1', 'K'"),
    "its ids": (check.spoken, lambda ids, symbols: (speak(ids, symbols), ids.clear())[0], 3, "was changed in place"),
}  # fmt: skip
READING_LAWS = {check.n_padding: encoder_outputs.N_PADDING, check.padded_left: encoder_outputs.PADDED_LEFT,
                check.spoken: encoder_outputs.SPOKEN}    # fmt: skip


def test_right_answers_pass_in_encoder_outputs():
    assert quietly(check.n_padding, 4) and quietly(check.padded_left, left) and quietly(check.spoken, speak)
    assert quietly(check.padded_left, lambda rows: [*left(rows)])


# Those of Normalization.
def rms(x, gain, eps, root=lambda square, eps: (square + eps).sqrt(), dim=-1):
    return gain * x / root(x.square().mean(dim, keepdim=True), eps)


def wide(x, gain, eps, **slips):
    "In single precision at least, and back."
    as_wide = torch.promote_types(x.dtype, torch.float32)
    return rms(x.to(as_wide), gain.to(as_wide), eps, **slips).to(x.dtype)


def go_up(x, sublayers, norms, last, step=lambda x, f, norm: x + f(norm(x))):
    for f, norm in zip(sublayers, norms):
        x = step(x, f, norm)
    return last(x)


def with_step(step):
    return lambda *four: go_up(*four, step)


NORMING = {
    "a word": (check.one_sublayer, "many", 0, "expected one number"),
    "nothing comes along": (check.one_sublayer, 0.6, 1, "that is without the shortcut"),
    "post-norm": (check.one_sublayer, 1.34, 1, "that is post-norm"),
    "no norm": (check.one_sublayer, 12, 1, "that is without a norm"),
    "the other norm": (check.one_sublayer, 8.67, 2, "that is with a LayerNorm"),
    "forwards": (check.one_sublayer, 10.8, 2, "that is not read backwards"),
    "no number": (check.one_sublayer, math.nan, 1, "nan came"),
    "one number": (check.rms_in_half, lambda x, gain, eps: wide(x, gain, eps).mean(), 0, "table(2, 3, 4)"),
    "float32": (check.rms_in_half, lambda x, gain, eps: rms(x.float(), gain.float(), eps), 0, "torch.float32"),
    "of positions": (check.rms_in_half, lambda x, gain, eps: wide(x, gain, eps, dim=1), 1, "the last vector of three"),
    "of all": (check.rms_in_half, lambda x, gain, eps: wide(x, gain, eps, dim=(1, 2)), 1, "the last vector of three"),
    "no root": (check.rms_in_half, lambda *three: wide(*three, root=torch.add), 2, "mean square of a vector"),
    "LayerNorm": (check.rms_in_half, lambda x, gain, eps: wide(x - x.mean(-1, keepdim=True), gain, eps), 3, "expected"),
    "no gain": (check.rms_in_half, lambda x, gain, eps: wide(x, gain**0, eps), 3, "table(2, 3, 4)"),
    "ε outside": (check.rms_in_half, lambda *three: wide(*three, root=lambda square, eps: square.sqrt() + eps), 4,
                  "ε = 0.01"),
    "no ε": (check.rms_in_half, lambda x, gain, eps: wide(x, gain, 0), 4, "ε = 0.01"),
    "in half": (check.rms_in_half, rms, 5, "200 * table(2, 3, 4)"),
    "squares in half": (check.rms_in_half, lambda *three: rms(*three, root=lambda square, eps: (
        square.double() + eps).sqrt().to(square.dtype)), 5, "200 * table(2, 3, 4)"),
    "made smaller": (check.rms_in_half, lambda x, gain, eps: rms(x / 256, gain, eps / 256**2), 6, "/ 10000"),
    "ε in half": (check.rms_in_half, lambda x, gain, eps: wide(x, gain, torch.tensor(eps).to(x.dtype)), 6, "ε = 1e-8"),
    "its input": (check.rms_in_half, lambda x, gain, eps: (wide(x, gain, eps), x.zero_())[0], 7, "changed in place"),
    "all sums": (check.climbed, lambda x, fs, norms, last: [last(x)], 0, "came a list"),
    "a normalized shortcut": (check.climbed, with_step(lambda x, f, norm: norm(x) + f(norm(x))), 1, "no norm at the"),
    "a norm after the sum": (check.climbed, with_step(lambda x, f, norm: norm(x + f(x))), 1, "no norm at the top"),
    "no shortcut": (check.climbed, with_step(lambda x, f, norm: f(norm(x))), 1, "no norm at the top"),
    "read as it is": (check.climbed, with_step(lambda x, f, norm: x + f(x)), 2, "what sublayer 0 is given"),
    "one norm for all": (check.climbed, lambda x, fs, norms, last: go_up(x, fs, norms[:1] * 3, last), 2,
                         "what sublayer 1 is given"),
    "side by side": (check.climbed, lambda x, fs, norms, last: last(x + sum(f(n(x)) for f, n in zip(fs, norms))), 2,
                     "what sublayer 1 is given"),
    "two of three": (check.climbed, lambda x, fs, norms, last: go_up(x, fs[:2], norms, last), 2, "called 2 times"),
    "none at the top": (check.climbed, lambda x, fs, norms, last: go_up(x, fs, norms, lambda h: h), 3, "expected"),
    "the stream": (check.climbed, with_step(lambda x, f, norm: x.add_(f(norm(x)))), 4, "changed in place"),
}  # fmt: skip
NORM_LAWS = {check.one_sublayer: normalization.ONE_SUBLAYER, check.rms_in_half: normalization.RMS_IN_HALF,
             check.climbed: normalization.CLIMBED}    # fmt: skip


def test_right_answers_pass_in_normalization():
    for answer in (9.6, "9.6", 9 + 3 / 5, torch.tensor(9.6)):
        assert quietly(check.one_sublayer, answer)
    for right in (wide, lambda x, gain, eps: (gain.float() * rms(x.float(), 1, eps).to(x.dtype)).to(x.dtype)):
        assert quietly(check.rms_in_half, right)
    assert quietly(check.rms_in_half, lambda x, gain, eps: nn.functional.rms_norm(x, x.shape[-1:], gain, eps))
    assert quietly(check.climbed, go_up)


# Those of Two stacks side by side.
def climb(decoder, tokens, attends=True, feeds=True, last=True, mask=None):
    x = decoder.embedding(tokens)
    for layer in decoder.layers:
        layer.mask = mask or layer.mask
        if attends:
            x = layer.self_res.add(x, layer.self_attend(layer.self_res.read(x), None))
        if feeds:
            x = layer.ffn_res.add(x, layer.ffn(layer.ffn_res.read(x)))
    return decoder.final_norm(x) if last else x


def prompt_of(n_prompt, n, wide=0):
    return causal_mask(n, n) | (torch.arange(n) < n_prompt + wide)


def two_squares(n_prompt, n):
    behind = torch.arange(n) >= n_prompt
    return prompt_of(n_prompt, n) & (behind[:, None] == behind)


def mean(memory, mask):
    return memory.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)


CLIMBING = {
    "a word": (check.gpt2_size, "many", 0, "expected one number"),
    "a count": (check.gpt2_size, 124_439_808, 1, "came"),
    "one layer": (check.gpt2_size, 7.087872, 2, "that is one layer alone"),
    "no positions": (check.gpt2_size, 123.65, 2, "that is without the positions"),
    "a head of its own": (check.gpt2_size, 163.04, 2, "that is with the table counted twice"),
    "no biases": (check.gpt2_size, 124.356864, 2, "that is without biases"),
    "a decoder's": (check.gpt2_size, 152.806656, 2, "that is with cross-attention and its norm"),
    "no end to it": (check.gpt2_size, math.inf, 1, "inf came"),
    "logits": (check.without_memory, lambda d, t: climb(d, t) @ d.embedding.tokens.weight.T, 0, "two rows of five"),
    "no mask": (check.without_memory, lambda d, t: climb(d, t, mask=lambda q, k, _: torch.ones(q, k) > 0), 1,
                "the last two tokens changed"),
    "no attention": (check.without_memory, lambda d, t: climb(d, t, attends=False), 2, "the first token changed"),
    "no network": (check.without_memory, lambda d, t: climb(d, t, feeds=False), 3, "two rows of five"),
    "no last norm": (check.without_memory, lambda d, t: climb(d, t, last=False), 3, "two rows of five"),
    "ones and zeros": (check.prompt_mask, lambda *two: prompt_of(*two).int(), 0, "expected booleans"),
    "the prompt's rows": (check.prompt_mask, lambda p, n: prompt_of(p, n)[:p], 0, "shape (4, 8)"),
    "read one way": (check.prompt_mask, lambda p, n: causal_mask(n, n), 1, "expected 1 at [0, 1]"),
    "rows for columns": (check.prompt_mask, lambda p, n: causal_mask(n, n) | (torch.arange(n) < p)[:, None], 2,
                         "expected 0 at [0, 4]"),
    "the start too": (check.prompt_mask, lambda p, n: prompt_of(p, n, wide=1), 2, "expected 0 at [0, 4]"),
    "two squares": (check.prompt_mask, two_squares, 3, "expected 1 at [4, 0]"),
    "the prompt alone": (check.prompt_mask, lambda p, n: (torch.arange(n) < p).expand(n, n), 4, "expected 1 at [4, 4]"),
    "the rest both ways": (check.prompt_mask, lambda p, n: prompt_of(p, n) | (torch.arange(n) >= p)[:, None], 4,
                           "expected 0 at [4, 5]"),
    "a row": (check.pooled, lambda m, mask: m[0], 0, "table(3, 4, 5)"),
    "a sum": (check.pooled, lambda m, mask: m.masked_fill(~mask[..., None], 0).sum(1), 1, "no padding"),
    "all positions": (check.pooled, lambda m, mask: m.mean(1), 2, "table(3, 4, 5)"),
    "divided by all": (check.pooled, lambda m, mask: m.masked_fill(~mask[..., None], 0).mean(1), 2, "table(3, 4, 5)"),
    "a product": (check.pooled, lambda m, mask: (m * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), 3,
                  "padding of infinities"),
    "in place": (check.pooled, lambda m, mask: m.masked_fill_(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True),
                 4, "was changed in place"),
}  # fmt: skip
ENCODER_LAWS = {check.gpt2_size: encoder.GPT2_SIZE, check.without_memory: encoder.WITHOUT_MEMORY,
                check.prompt_mask: encoder.PROMPT_MASK, check.pooled: encoder.POOLED}    # fmt: skip


def test_right_answers_pass_in_encoder():
    assert quietly(check.gpt2_size, 124.44) and quietly(check.gpt2_size, "124.44")
    assert quietly(check.gpt2_size, 124_439_808 / 1e6)
    assert quietly(check.without_memory, climb) and quietly(check.pooled, mean)
    for right in (prompt_of, lambda p, n: torch.ones(n, n).tril().bool().index_fill(1, torch.arange(p), True)):
        assert quietly(check.prompt_mask, right)
    assert quietly(check.pooled, lambda m, mask: torch.stack([row[real].mean(0) for row, real in zip(m, mask)]))


# Those of The decoder stack.
def asked_storeys(decoder, projection, tokens, memory, order="scf", last=True, reads=True, places=False, whole=False):
    x = decoder.embedding(tokens)
    storeys = [x]
    for layer in decoder.layers:
        parts = {
            "s": (layer.self_res, lambda h, layer=layer: layer.self_attend(h, None)),
            "c": (layer.cross_res, lambda h, layer=layer: layer.cross_attend(h, memory, None, None)),
            "f": (layer.ffn_res, layer.ffn),
        }
        for res, part in map(parts.get, order):
            x = x + part(res.norm(x)) if places else res.add(x, part(res.read(x) if reads else x))
            storeys.append(x)
    if whole:
        storeys[5] = storeys[6]
    found = torch.stack(storeys)
    return projection(decoder.final_norm(found) if last else found)


def layer_lines(layer, x, memory, asks=False, adds=True, order="scf", mask=None):
    layer.mask, y = mask or layer.mask, x
    parts = {
        "s": (layer.self_res, lambda h: layer.self_attend(h, None)),
        "c": (layer.cross_res, lambda h: layer.cross_attend(h, memory, None, None)),
        "f": (layer.ffn_res, layer.ffn),
    }
    for name in order:
        res, part = parts[name]
        update = part(res.norm(x if asks and name == "c" else y))
        y = y + update if adds else update
    return y


STACKING = {
    "a vector": (check.pre_norm_sum, [-1, 2, 1, 4], 0, "expected one number"),
    "normalized after": (check.pre_norm_sum, 1.39, 1, "that is with a norm after the sum, too"),
    "no end of it": (check.pre_norm_sum, math.inf, 1, "inf came"),
    "no shortcut": (check.pre_norm_sum, 1, 2, "without the shortcut"),
    "norm(x) in the shortcut": (check.pre_norm_sum, 2, 2, "a shortcut that carries norm(x)"),
    "x itself is read": (check.pre_norm_sum, 3, 2, "that is with a sublayer that reads x itself"),
    "no embedding": (check.lens, lambda *a: asked_storeys(*a)[1:], 0, "two layers, two rows"),
    "no network": (check.lens, functools.partial(asked_storeys, order="sc"), 0, "(5, 2, 5, 9)"),
    "no last norm": (check.lens, functools.partial(asked_storeys, last=False), 1, "the storey of the embedding"),
    "cross-attention first": (check.lens, functools.partial(asked_storeys, order="csf"), 2, "came [1, 2, 3"),
    "nothing normalized": (check.lens, functools.partial(asked_storeys, reads=False), 3, "the highest storey"),
    "the network twice": (check.lens, functools.partial(asked_storeys, whole=True), 4, "at [5, 0, 0, 0]"),
    "pre-norm alone": (check.lens, functools.partial(asked_storeys, places=True), 5, "a post-norm decoder"),
    "a row of vectors": (check.pre_norm_layer, lambda *a: layer_lines(*a)[0], 0, "two rows of four"),
    "no mask": (check.pre_norm_layer, functools.partial(layer_lines, mask=lambda q, k, _: torch.ones(q, k) > 0), 1,
                "the last vector changed"),
    "replaced": (check.pre_norm_layer, functools.partial(layer_lines, adds=False), 2, "three silent sublayers"),
    "post-norm": (check.pre_norm_layer, lambda layer, *a: layer.ffn_res.norm(layer_lines(layer, *a)), 2, "silent"),
    "asked with x": (check.pre_norm_layer, functools.partial(layer_lines, asks=True), 3, "the first vector changed"),
    "no cross-attention": (check.pre_norm_layer, functools.partial(layer_lines, order="sf"), 3, "stays as it was"),
    "the network second": (check.pre_norm_layer, functools.partial(layer_lines, order="sfc"), 4, "two rows of four"),
}  # fmt: skip
DECODER_LAWS = {check.pre_norm_sum: decoder.PRE_NORM_SUM, check.lens: decoder.LENS,
                check.pre_norm_layer: decoder.PRE_NORM_LAYER}    # fmt: skip


def test_right_answers_pass_in_decoder():
    assert quietly(check.pre_norm_sum, 4) and quietly(check.pre_norm_sum, "4.0")
    assert quietly(check.lens, asked_storeys) and quietly(check.pre_norm_layer, layer_lines)
    assert quietly(check.pre_norm_layer, lambda layer, x, memory: layer(x, memory))


# Those of The linear projection.
def best(x, weight, bias, k, of=lambda z: z, largest=True, dim=-1):
    return of(x @ weight.T + bias).topk(k, dim, largest).indices


def added_in_place(x, weight, bias, k):
    return x.mm(weight.T).add_(bias.add_(0.5)).topk(k).indices


def two_ends(vocab_size, d_model, std=None, tie=lambda table: table, after=lambda embedding: None):
    embedding = nn.Embedding(vocab_size, d_model)
    nn.init.normal_(embedding.weight, std=std or d_model**-0.5)
    head = Projection(d_model, vocab_size, tied=tie(embedding.weight))
    after(embedding)
    return embedding, head


def halved(embedding):
    embedding.weight = nn.Parameter(embedding.weight / 2)


def a_copy(embedding):
    embedding.weight = nn.Parameter(embedding.weight.detach().clone())


SCORING = {
    "all four counts": (check.tied_bytes, [1003, 100], 0, "expected one number"),
    "of numbers": (check.tied_bytes, 101_303, 1, "that is the count of numbers"),
    "kilobytes": (check.tied_bytes, 405.212, 1, "that is in kilobytes"),
    "half of it": (check.tied_bytes, 202_606, 1, "that is two bytes a number"),
    "words alone": (check.tied_bytes, 404_000, 2, "that is without the special symbols"),
    "twice": (check.tied_bytes, 806_412, 2, "that is two tables"),
    "unbiased": (check.tied_bytes, 401_200, 2, "that is without the bias"),
    "a wide bias": (check.tied_bytes, 401_600, 2, "that is a bias for each feature"),
    "the logits": (check.best_tokens, lambda x, weight, bias, k: (x @ weight.T + bias).topk(k).values, 0,
                   "expected ids from 0 to 4, 3 for each of 2 vectors"),
    "one alone": (check.best_tokens, lambda *four: best(*four)[:, :1], 0, "k = 3"),
    "the lowest": (check.best_tokens, functools.partial(best, largest=False), 1, "expected [1, 2], came [2, 0]"),
    "by id": (check.best_tokens, lambda *four: best(*four).sort().values, 2, "came [[0, 1, 3, 4], [1, 2, 3, 4]]"),
    "the rest by id": (check.best_tokens, lambda *four: [[row[0], *sorted(row[1:])] for row in best(*four).tolist()],
                       2, "came [[1, 0, 3, 4], [2, 1, 3, 4]]"),
    "the longest": (check.best_tokens, functools.partial(best, of=torch.abs), 3, "came [[0, 4, 1, 3, 2]]"),
    "no bias": (check.best_tokens, lambda x, weight, bias, k: best(x, weight, 0, k), 4, "a bias of 7"),
    "unit rows": (check.best_tokens, lambda x, weight, bias, k: best(x.sign(), weight, bias, k), 5, "table(6, 4)"),
    "a bias that grows": (check.best_tokens, added_in_place, 6, "the input bias was changed in place"),
    "one of two": (check.two_ends, lambda *two: two_ends(*two)[0], 0, "expected an embedding and a projection"),
    "turned": (check.two_ends, lambda v, d: (two_ends(v, d)[0], nn.Linear(v, d)), 0, "could not be tried"),
    "not tied": (check.two_ends, lambda v, d: (two_ends(v, d)[0], nn.Linear(d, v)), 1, "beside the embedding's"),
    "halved": (check.two_ends, functools.partial(two_ends, after=halved), 1, "beside the embedding's"),
    "copied": (check.two_ends, functools.partial(two_ends, after=a_copy), 2, "expected 44 numbers, or 55 with"),
    "one memory": (check.two_ends, functools.partial(two_ends, tie=nn.Parameter), 2, "came 99"),
    "frozen": (check.two_ends, functools.partial(two_ends, tie=lambda table: table.detach().clone()), 3,
               "after a step"),
    "detached": (check.two_ends, functools.partial(two_ends, tie=torch.Tensor.detach), 4, "get no gradient"),
    "long": (check.two_ends, functools.partial(two_ends, std=1.0), 5, "expected rows of a length near 1, came 8"),
}  # fmt: skip
PROJECTION_LAWS = {check.tied_bytes: projection.TIED_BYTES, check.best_tokens: projection.BEST_TOKENS,
                   check.two_ends: projection.TWO_ENDS}    # fmt: skip


def test_right_answers_pass_in_projection():
    assert quietly(check.tied_bytes, 405_212) and quietly(check.tied_bytes, "405212")
    assert quietly(check.best_tokens, best) and quietly(check.best_tokens, lambda *four: best(*four).tolist())
    assert quietly(check.best_tokens, lambda x, w, b, k: (x @ w.T + b).argsort(-1, descending=True)[:, :k])
    assert quietly(check.two_ends, two_ends)
    assert quietly(check.two_ends, lambda v, d: (e := two_ends(v, d)[0], Projection(d, v, e.weight, bias=False)))
# Those of Softmax.
def surprises(z, targets, highest=None, base=1.0):
    highest = z.amax(-1, keepdim=True) if highest is None else highest
    total = (base * (z - highest)).exp().sum(-1, keepdim=True).log() / base + highest
    return (total - z.gather(-1, targets[..., None]))[..., 0]


def real_ones(z, targets, mask, **slips):
    return surprises(z[mask], targets[mask], **slips).mean()


def row_by_row(z, targets, mask):
    return torch.stack([real_ones(*row) for row in zip(z, targets, mask)]).mean()


def hit(z, darts, axis=-1, scale=1.0, late=0):
    return ((scale * z).softmax(axis).cumsum(-1) <= darts[:, None]).sum(-1).add(late).clamp(max=z.shape[-1] - 1)


SOFTENING = {
    "three shares": (check.sharper_share, [0.03, 0.13, 0.83], 0, "expected one number"),
    "a power": (check.sharper_share, 25, 1, "that is e to the power of its logit, before the division"),
    "a logit": (check.sharper_share, 3.22, 1, "that is its logit, divided by ½"),
    "no share": (check.sharper_share, math.nan, 1, "nan came"),
    "no temperature": (check.sharper_share, 0.62, 2, "that is at temperature 1"),
    "times the temperature": (check.sharper_share, 0.48, 2, "that is at temperature 2"),
    "the second": (check.sharper_share, 0.13, 2, "that is the second token's"),
    "the loss": (check.sharper_share, 0.18, 2, "that is its loss, in nats"),
    "the first left out": (check.sharper_share, 0.86, 2, "that is without the first token"),
    "one for each": (check.masked_loss, lambda z, t, m: surprises(z, t), 0, "shape ()"),
    "a sum": (check.masked_loss, lambda z, t, m: surprises(z[m], t[m]).sum(), 1, "logits of 0"),
    "bits": (check.masked_loss, lambda *three: real_ones(*three) / math.log(2), 1, "expected 1.609"),
    "no minus": (check.masked_loss, lambda *three: -real_ones(*three), 1, "came -1.609"),
    "the best one's": (check.masked_loss, lambda z, t, m: -z[m].log_softmax(-1).amax(-1).mean(), 2, "all real"),
    "the first one's": (check.masked_loss, lambda z, t, m: real_ones(z, 0 * t, m), 2, "all real"),
    "powers of 2": (check.masked_loss, lambda *three: real_ones(*three, base=math.log(2)), 1, "logits of 0"),
    "over the positions": (check.masked_loss,
                           lambda z, t, m: -z.log_softmax(1).gather(-1, t[..., None])[..., 0][m].mean(), 1,
                           "came 1.386"),
    "all positions": (check.masked_loss, lambda z, t, m: surprises(z, t).mean(), 3, "table(3, 4, 5)"),
    "row by row": (check.masked_loss, row_by_row, 3, "table(3, 4, 5)"),
    "divided by all": (check.masked_loss, lambda z, t, m: surprises(z[m], t[m]).sum() / m.numel(), 3, "table(3, 4, 5)"),
    "a product": (check.masked_loss, lambda z, t, m: (surprises(z, t) * m).sum() / m.sum(), 4, "padding of NaN"),
    "no maximum": (check.masked_loss, functools.partial(real_ones, highest=0), 5, "+ 5000"),
    "a share's logarithm": (check.masked_loss, lambda z, t, m: -z[m].softmax(-1).gather(-1, t[m][:, None]).log().mean(),
                            6, "1000 *"),
    "in place": (check.masked_loss, lambda z, t, m: (real_ones(z, t, m), z.zero_())[0], 7, "was changed in place"),
    "a token for all": (check.drawn, lambda z, darts: hit(z, darts)[0], 0, "of shape (4,)"),
    "floats": (check.drawn, lambda z, darts: hit(z, darts).double(), 0, "torch.int64"),
    "over the rows": (check.drawn, functools.partial(hit, axis=0), 1, "alone it draws token 0"),
    "the first dart": (check.drawn, lambda z, darts: hit(z, darts[:1].expand(len(z))), 1, "row"),
    "greedy": (check.drawn, lambda z, darts: z.argmax(-1), 2, "100 darts"),
    "twice as cold": (check.drawn, functools.partial(hit, scale=2.0), 2, "100 darts"),
    "one too late": (check.drawn, functools.partial(hit, late=1), 2, "100 darts"),
    "from the right": (check.drawn, lambda z, darts: hit(z, 1 - darts), 3, "dart"),
    "its darts": (check.drawn, lambda z, darts: (hit(z, darts), darts.zero_())[0], 4, "was changed in place"),
}  # fmt: skip
SOFTMAX_LAWS = {check.sharper_share: softmax.SHARPER_SHARE, check.masked_loss: softmax.MASKED_LOSS,
                check.drawn: softmax.DRAWN}    # fmt: skip


def test_right_answers_pass_in_softmax():
    for answer in (0.83, 0.8333, "0.84", 5 / 6, torch.tensor(0.833)):
        assert quietly(check.sharper_share, answer)
    for right in (
        real_ones,
        lambda z, t, m: nn.functional.cross_entropy(z[m], t[m]),
        lambda z, t, m: nn.functional.cross_entropy(z.flatten(0, 1), t.masked_fill(~m, -100).flatten()),
        lambda z, t, m: surprises(z, t).masked_fill(~m, 0).sum() / m.sum(),
    ):
        assert quietly(check.masked_loss, right)
    assert quietly(check.drawn, hit)
    assert quietly(check.drawn, lambda z, darts: torch.searchsorted(z.softmax(-1).cumsum(-1), darts[:, None])[:, 0])


# Those of What each idea buys.
def p_of(a, b, far=abs, slack=1e-9, size=None, places=True, more=0.0):
    "The share of groupings, with places for slips."
    numbers = a + b
    size = len(a) if size is None else size
    groups = [*itertools.combinations(range(len(numbers)), size)]

    def apart(chosen):
        values = [numbers[i] for i in chosen]
        rest = [x for i, x in enumerate(numbers) if (i not in chosen if places else x not in values)] or [0.0]
        return far(sum(values) / len(values) - sum(rest) / len(rest))

    found = apart(range(size))
    return sum(apart(chosen) >= found - slack for chosen in groups) / len(groups) + more


def gain(base, new, keep=lambda seed, base, new: seed in base and seed in new):
    return {seed: base[seed] - new[seed] for seed in base if keep(seed, base, new)}


COMPARING = {
    "no number of comparisons": (check.parted_by_chance, "few", 0, "expected one number"),
    "a share of one": (check.parted_by_chance, 2 / 70, 1, "a share of 1"),
    "three against three": (check.parted_by_chance, 10.0, 1, "for three seeds against three"),
    "one direction": (check.parted_by_chance, 100 / 70, 2, "for one of the two directions"),
    "a count": (check.p_value, lambda a, b: 20 * p_of(a, b), 0, "came"),
    "no share": (check.p_value, lambda a, b: [0.5, 0.5], 0, "expected a share"),
    "only what is farther": (check.p_value, lambda a, b: p_of(a, b, slack=-1e-9, more=0.05), 1, "expected 1"),
    "with its sign": (check.p_value, lambda a, b: p_of(a, b, far=lambda x: x, slack=1e9) if sum(a) / len(a)
                      == sum(b) / len(b) else p_of(a, b, far=lambda x: x), 2, "expected 0.1"),
    "halves": (check.p_value, lambda a, b: p_of(a, b, size=len(a + b) // 2), 3, "[3.0, 1.0, 2.0]"),
    "values for places": (check.p_value, lambda a, b: p_of(a, b, places=len({*a, *b}) == len(a + b) or a == b[::-1]),
                          4, "[0.2, 0.3, 0.4]"),
    "a sample of groupings": (check.p_value, lambda a, b: p_of(a, b) if len(a + b) < 8 else 0.03, 5, "expected 0.0"),
    "sorted in place": (check.p_value, lambda a, b: (p_of(a, b), a.sort())[0], 6, "changed in place"),
    "a list of gains": (check.gains, lambda base, new: [base[seed] - new[seed] for seed in base], 0, "expected a dict"),
    "the mean alone": (check.gains, lambda base, new: {"mean": 0.1}, 0, "['mean']"),
    "the wrong way round": (check.gains, lambda base, new: gain(new, base), 1, "seed 1 gains 0.25"),
    "zipped": (check.gains, lambda base, new: {s: x - y for s, x, y in zip(base, base.values(), new.values())}, 2,
               "seed 1 gains"),
    "all seeds": (check.gains, lambda base, new: gain(base, new, lambda *_: True), 3, "KeyError"),
    "popped": (check.gains, lambda base, new: {s: base[s] - new.pop(s) for s in base if s in new}, 4, "changed in"),
}  # fmt: skip
COMPARING_LAWS = {check.parted_by_chance: ablations.PARTED_BY_CHANCE, check.p_value: ablations.P_VALUE,
                  check.gains: ablations.GAINS}    # fmt: skip


def test_right_answers_pass_in_what_each_idea_buys():
    assert quietly(check.parted_by_chance, 100 * 2 / 70) and quietly(check.parted_by_chance, 2.86)
    assert quietly(check.p_value, p_of) and quietly(check.gains, gain)
    assert all(p_of(a, b) == pytest.approx(ablations.regrouped(a, b)) for a, b in ablations.CASES)


# Those of Fast decoding.
def whole(weight, dim=1, levels=127, finish=torch.round, dtype=torch.int8):
    scale = weight.abs().amax(dim, keepdim=True) / levels
    return finish(weight / scale).to(dtype), (scale * torch.ones_like(weight[:, :1]))[:, 0]


class Room:
    "The right answer; what a class of this base has otherwise is a slip."
    grows = late = whole = spoils = False

    def __init__(self, max_len):
        self.max_len, self.length, self.keys = max_len, 0, None

    def extend(self, new):
        if self.keys is None:
            self.keys = new.new_zeros(*new.shape[:2], self.max_len, new.shape[3])
        start, self.length = self.length, self.length + new.shape[2]
        self.keys[:, :, max(0, start - self.late) :][:, :, : new.shape[2]] = new
        self.keys = self.keys.clone() if self.grows else self.keys
        if self.spoils:
            new.zero_()
        return self.keys if self.whole else self.keys[:, :, : self.length]


def room(**slips):
    return type("Room", (Room,), slips)


class Shared(Room):
    everyone: dict = {}

    def extend(self, new):
        if not self.length:
            self.keys = self.everyone.get("keys")
        found = super().extend(new)
        self.everyone["keys"] = self.keys
        return found


FAST = {
    "in numbers": (check.bytes_of_a_step, 1616, 1, "that is the numbers, not their bytes"),
    "not a multiple": (check.bytes_of_a_step, 6465, 1, "6465 came"),
    "NaN bytes": (check.bytes_of_a_step, math.nan, 1, "nan came"),
    "all of cross-attention": (check.bytes_of_a_step, 7488, 2, "with the memory's keys and values"),
    "no projection": (check.bytes_of_a_step, 6144, 2, "without the projection"),
    "one layer": (check.bytes_of_a_step, 3392, 2, "of one layer"),
    "no cross-attention": (check.bytes_of_a_step, 5440, 2, "without cross-attention"),
    "one matrix of the network": (check.bytes_of_a_step, 4928, 2, "with one matrix of the feed-forward network"),
    "the embedding": (check.bytes_of_a_step, 6784, 2, "with the whole embedding"),
    "a list": (check.bytes_of_a_step, [6464, 1], 0, "expected one number"),
    "floats": (check.to_whole, lambda w: whole(w, dtype=torch.float32), 0, "expected torch.int8"),
    "no scales": (check.to_whole, lambda w: whole(w)[0], 0, "expected numbers and scales"),
    "scales in a column": (check.to_whole, lambda w: (whole(w)[0], whole(w)[1][:, None]), 0, "(4,)"),
    "cut off": (check.to_whole, lambda w: whole(w, finish=torch.trunc), 1, "off by"),
    "one for all": (check.to_whole, lambda w: whole(w, dim=(0, 1)), 2, "row 2 times 10"),
    "six bits": (check.to_whole, lambda w: whole(w, levels=63), 3, "[63, 63, 63, 63]"),
    "scaled in place": (check.to_whole, lambda w: (whole(w)[0], (whole(w)[1], w.mul_(0))[0]), 4, "changed in place"),
    "nothing": (check.filled_part, type("Nothing", (Room,), {"extend": lambda self, new: 1}), 0, "(2, 2, t, 3)"),
    "no method": (check.filled_part, type("Bare", (), {"__init__": lambda self, max_len: None}), 0, "a method extend"),
    "the whole room": (check.filled_part, room(whole=True), 1, "came [8]"),
    "the newest alone": (check.filled_part, type("New", (Room,), {"extend": lambda self, new: new}), 1, "columns"),
    "a place too early": (check.filled_part, room(late=1), 2, "chunks of"),
    "a copy": (check.filled_part, room(grows=True), 3, "3 places in 3 steps"),
    "one room for all": (check.filled_part, Shared, 4, "two caches in turns"),
    "what was given": (check.filled_part, room(spoils=True), 5, "changed in place"),
}
FAST_LAWS = {check.bytes_of_a_step: fast_decoding.BYTES_OF_A_STEP, check.to_whole: fast_decoding.TO_WHOLE,
             check.filled_part: fast_decoding.FILLED_PART}    # fmt: skip


def test_right_answers_pass_in_fast_decoding():
    for answer in (6464, 6464.0, "6464", torch.tensor(6464)):
        assert quietly(check.bytes_of_a_step, answer)
    assert quietly(check.to_whole, whole) and quietly(check.to_whole, lambda w: [*whole(w)])
    assert quietly(check.filled_part, Room)
    assert torch.equal(eval("weights(4, 6)", {"weights": fast_decoding.weights}), fast_decoding.weights(4, 6))


# Those of Real checkpoints.
def shapes_of(data, skipped="__metadata__", key="shape", long=8, keep=dict):
    end = 8 + int.from_bytes(data[:long], "little")
    header = json.loads(data[8:end])
    return keep({name: each.get(key) for name, each in header.items() if name != skipped})


def run_again(tokens, n, first=lambda t, n: len(t) - n + 1, more=1, begins=1, keep=set, spoil=False):
    newest = tokens[first(tokens, n) :]
    places = range(max(0, len(tokens) - n + more))
    found = [tokens[i + n - 1 :][:1] for i in places if tokens[i : i + n - begins] == newest]
    if spoil:
        tokens.append(0)
    return keep(token for each in found for token in each)


T5_ATTENTION = {
    f"{ours}.{mine}": f"{theirs}.{letter}"
    for mine, letter in zip(("q_proj", "k_proj", "v_proj", "out_proj"), "qkvo", strict=True)
    for ours, theirs in (("self_attn", "0.SelfAttention"), ("cross_attn", "1.EncDecAttention"))
}
T5_REST = {
    "ffn.up_proj": "2.DenseReluDense.wi", "ffn.down_proj": "2.DenseReluDense.wo",
    "self_res.norm": "0.layer_norm", "cross_res.norm": "1.layer_norm", "ffn_res.norm": "2.layer_norm",
}  # fmt: skip


def t5_called(name, number=None, **changes):
    _, _, n, part = name.removesuffix(".weight").split(".", 3)
    changed = {ours.replace("__", "."): theirs for ours, theirs in changes.items()}
    return f"decoder.block.{n if number is None else number(n)}.layer.{(T5_ATTENTION | T5_REST | changed)[part]}.weight"


def slipped_name(place, told, **changes):
    return check.t5_name, lambda name: t5_called(name, **changes), place, told


def slipped_run(place, told, **changes):
    return check.would_repeat, lambda tokens, n: run_again(tokens, n, **changes), place, told


REAL = {
    "two penalties": (check.tied_penalty, [0.7, 0.8], 0, "expected one number"),
    "the ratio": (check.tied_penalty, 1.667, 1, "that is the ratio of the sums"),
    "turned over": (check.tied_penalty, -0.737, 1, "that is the ratio turned over"),
    "natural": (check.tied_penalty, 0.51, 2, "that is with natural logarithms"),
    "no ends": (check.tied_penalty, 0.465, 2, "that is with the lengths without their ends"),
    "names alone": (check.shapes, lambda data: shapes_of(data, keep=list), 0, "expected a dict"),
    "the note too": (check.shapes, lambda data: shapes_of(data, skipped=""), 1, "__metadata__"),
    "offsets": (check.shapes, lambda data: shapes_of(data, key="data_offsets"), 2, "[2, 3] for wide"),
    "one byte": (check.shapes, lambda data: shapes_of(data) if data[1] == 0 else {}, 3, "expected 9 names"),
    "no name": (check.t5_name, lambda name: 7, 0, "expected a string"),
    "your own name": (check.t5_name, lambda name: name, 1, "is no name in this layer"),
    "k for q": slipped_name(1, "self_attn.k_proj", self_attn__q_proj="0.SelfAttention.k"),
    "one attention": slipped_name(2, "self_attn.v_proj", cross_attn__v_proj="0.SelfAttention.v"),
    "in for out": slipped_name(3, "ffn.up_proj", ffn__down_proj="2.DenseReluDense.wi"),
    "the norm below": slipped_name(4, "self_res.norm", cross_res__norm="0.layer_norm"),
    "the first layer": slipped_name(5, "is no name in this layer", number=lambda n: 0),
    "one digit": slipped_name(5, "decoder.layers.11", number=lambda n: n[0]),
    "a list of tokens": slipped_run(0, "expected a set", keep=list),
    "whatever comes": (check.would_repeat, lambda tokens, n: set(tokens), 1, "n = 2"),
    "pairs alone": (check.would_repeat, lambda tokens, n: run_again(tokens, min(n, 2)), 2, "n = 3"),
    "half a run": (check.would_repeat, lambda t, n: set(t) if len(t) == 2 else run_again(t, n), 3, "[4, 4]"),
    "a slice from 0": slipped_run(4, "expected [3, 8], came []", first=lambda t, n: -(n - 1) or 0),
    "a token more": slipped_run(5, "changed in place", spoil=True),
}
REAL_LAWS = {check.tied_penalty: pretrained.TIED_PENALTY, check.shapes: pretrained.SHAPES,
             check.t5_name: pretrained.T5_NAME,
             check.would_repeat: pretrained.WOULD_REPEAT}    # fmt: skip


def test_right_answers_pass_in_real_checkpoints():
    for answer in (0.737, "0.74", torch.tensor(0.737)):
        assert quietly(check.tied_penalty, answer)
    assert quietly(check.shapes, shapes_of) and quietly(check.would_repeat, run_again)
    assert quietly(check.t5_name, t5_called)


# Those of More than one machine.
def mean_of(gradients, tokens, of=lambda n: n, pairs=lambda counts: counts, over=sum):
    counts = [of(n) for n in tokens]
    return sum(n * gradient for gradient, n in zip(gradients, pairs(counts))) / over(counts)


def mean_in_place(gradients, tokens):
    for gradient, n in zip(gradients, tokens):
        gradient *= n
    return sum(gradients) / sum(tokens)


def shuffled(n, seed, start=0):
    return [start + i for i in torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()]


def dealt(order, rank, world):
    return order[rank : len(order) - len(order) % world : world]


def padded_share(n, rank, world, seed):
    order = shuffled(n, seed)
    return (order * world)[: -(-n // world) * world][rank::world]    # as torch's DistributedSampler does


def rest_to_the_last(n, rank, world, seed):
    size = n // world
    return shuffled(n, seed)[rank * size : None if rank == world - 1 else (rank + 1) * size]


def torchs_own(n, rank, world, seed):
    torch.manual_seed(seed)
    return dealt(torch.randperm(n).tolist(), rank, world)


def torchs_sampler(n, rank, world, seed):
    sampler = torch.utils.data.DistributedSampler(range(n), world, rank, seed=seed, drop_last=True)
    return [*sampler]


SPREAD = {
    "two numbers": (check.least_cards, [320, 28], 0, "expected one number"),
    "not rounded": (check.least_cards, 320 / 28, 1, "that is not rounded"),
    "a little more": (check.least_cards, 11.5, 1, "11.5 came"),
    "no cards": (check.least_cards, math.nan, 1, "nan came"),
    "on no number of cards, as with DDP": (check.least_cards, math.inf, 1, "inf came"),
    "rounded down": (check.least_cards, 11, 2, "that is rounded down"),
    "one whole layer": (check.least_cards, 10, 2, "that is with one whole layer, not two"),
    "one moment": (check.least_cards, 9, 2, "that is with one moment of two"),
    "no whole layers": (check.least_cards, 8, 2, "that is without the whole layers"),
    "no moments": (check.least_cards, 6, 2, "that is without the two moments, or with numbers of two bytes"),
    "no activations": (check.least_cards, 5, 2, "that is with the activations forgotten, or cut as well"),
    "nothing beside the parts": (check.least_cards, 4, 2, "that is what is cut alone, with nothing beside it"),
    "weights alone": (check.least_cards, 3, 2, "that is with the weights alone"),
    "one to spare": (check.least_cards, 13, 3, "13 came"),
    "a power of two": (check.least_cards, 16, 3, "that is rounded up to a power of two"),
    "one for each": (check.mean_gradient, lambda g, n: [mean_of(g, n)] * len(n), 0, "of shape (2, 3), came a list"),
    "a single number": (check.mean_gradient, lambda g, n: mean_of(g, n).mean(), 0, "came a Tensor of shape ()"),
    "not divided": (check.mean_gradient, functools.partial(mean_of, over=lambda counts: 1), 1, "tokens [5]"),
    "the sum": (check.mean_gradient, lambda g, n: sum(g), 2, "gradients(2), tokens [3, 3]"),
    "divided twice": (check.mean_gradient, lambda g, n: mean_of(g, n) / len(n), 2, "gradients(2)"),
    "of two processes": (check.mean_gradient, lambda g, n: mean_of(g[:2], n[:2]), 2, "gradients(4)"),
    "the plain mean": (check.mean_gradient, functools.partial(mean_of, of=lambda n: 1), 3, "tokens [1, 3]"),
    "one token at least": (check.mean_gradient, functools.partial(mean_of, of=lambda n: max(n, 1)), 4, "of zeros"),
    "sorted": (check.mean_gradient, functools.partial(mean_of, pairs=sorted), 5, "tokens [9, 5, 2]"),
    "turned over": (check.mean_gradient, functools.partial(
        mean_of, pairs=lambda counts: counts if counts == sorted(counts) else counts[::-1]), 5, "tokens [9, 5, 2]"),
    "times n in place": (check.mean_gradient, mean_in_place, 6, "the input gradients was changed in place"),
    "a tensor": (check.items_of, lambda n, r, w, seed: torch.tensor(dealt(shuffled(n, seed), r, w)), 0, "a list, came"),
    "from 1 on": (check.items_of, lambda n, r, w, seed: dealt(shuffled(n, seed, start=1), r, w), 0, "0 to 9, came 10"),
    "floats": (check.items_of, lambda n, r, w, seed: [*map(float, dealt(shuffled(n, seed), r, w))], 0, "0 to 9, came"),
    "all dealt out": (check.items_of, lambda n, r, w, seed: shuffled(n, seed)[r::w], 1, "have [4, 3, 3] examples"),
    "the last gets the rest": (check.items_of, rest_to_the_last, 1, "the processes have [3, 3, 4] examples"),
    "one at least": (check.items_of, lambda n, r, w, seed: shuffled(n, seed)[r::w][: max(n // w, 1)], 1,
                     "the processes have [1, 1, 0, 0] examples"),
    "a seed for each": (check.items_of, lambda n, r, w, seed: dealt(shuffled(n, seed + r), r, w), 2, "than once: ["),
    "filled up": (check.items_of, padded_share, 2, "that never come: []"),
    "all of them": (check.items_of, lambda n, r, w, seed: shuffled(n, seed), 2, "10 examples, 3 processes, seed 5"),
    "all in one": (check.items_of, lambda n, r, w, seed: shuffled(n, seed)[: n // w], 2, "more than once: ["),
    "one each": (check.items_of, lambda n, r, w, seed: dealt(shuffled(n, seed), r, w)[:1], 2, "once: []; that"),
    "without its seed": (check.items_of, lambda n, r, w, seed: dealt(torch.randperm(n).tolist(), r, w), 3, "then ["),
    "in order": (check.items_of, lambda n, r, w, seed: dealt([*range(n)], r, w), 4, "with seed 6 again"),
    "one seed for ever": (check.items_of, lambda n, r, w, seed: dealt(shuffled(n, 0), r, w), 4, "with seed 6 again"),
    "cut, then shuffled": (check.items_of, lambda n, r, w, seed: dealt(shuffled(n - n % w, seed), r, w), 5,
                           "seeds 0 to 19: [8, 9, 10] are left out with each seed"),
    "torch's own": (check.items_of, torchs_own, 6, "torch's own generator has another state"),
}  # fmt: skip
SPREAD_LAWS = {check.least_cards: scaling_out.LEAST_CARDS, check.items_of: scaling_out.ITEMS_OF,
               check.mean_gradient: scaling_out.MEAN_GRADIENT}    # fmt: skip


def test_right_answers_pass_in_more_than_one_machine():
    for answer in (12, "12", 12.0, math.ceil(320 / 28), torch.tensor(12)):
        assert quietly(check.least_cards, answer)
    by_hand = lambda g, n: torch.tensordot(torch.tensor(n) / sum(n), torch.stack(g), 1)    # noqa: E731
    for answer in (mean_of, by_hand, lambda g, n: mean_of([each.double() for each in g], n)):
        assert quietly(check.mean_gradient, answer)
    in_blocks = lambda n, r, w, seed: shuffled(n, seed)[r * (n // w) : (r + 1) * (n // w)]    # noqa: E731
    numpys = lambda n, r, w, seed: dealt(np.random.default_rng(seed).permutation(n).tolist(), r, w)    # noqa: E731
    for answer in (lambda n, r, w, seed: dealt(shuffled(n, seed), r, w), in_blocks, numpys, torchs_sampler):
        assert quietly(check.items_of, answer)


def test_a_seed_for_each_process_breaks_what_holds_of_all_together_and_nothing_else():
    report = quietly(check.items_of, lambda n, r, w, seed: dealt(shuffled(n, seed + r), r, w))
    assert report.broken == (scaling_out.ITEMS_OF[2].name,)
    assert "order" not in report.text.split("Hint 1 of 3")[1]    # the first hint does not give it away


def test_gradients_of_an_exercise_are_those_that_its_report_names():
    given = eval("gradients(3, (4,))", {"gradients": scaling_out.gradients})
    assert torch.equal(torch.stack(given), torch.stack(scaling_out.gradients(3, (4,))))


# Those of The generation loop.
def rows_of(step, prompts, limits, end, pad, reads=lambda tokens: tokens, first=None, pick=torch.argmax,
            whole=torch.all, forget=False, own=True, more=0, quiet=True, returns=None):    # fmt: skip
    tokens, finished = prompts if first is None else first(prompts), limits <= 0
    for n in range(int(limits.max()) + more):
        if whole(finished):
            break
        chosen = pick(step(reads(tokens)), -1)
        chosen = torch.where(finished, pad, chosen) if quiet else chosen
        finished = (chosen == end) | (finished & (not forget))
        finished = finished | (n + 1 >= limits) if own else finished
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
    return tokens[:, prompts.shape[1] :] if returns is None else returns(tokens)


def never(finished):
    return False


def batch_of(decode, prompts, memory, limit, at=lambda n: -1, forget=False, whole=torch.all, more=0, quiet=PAD,
             returns=None):    # fmt: skip
    tokens, finished = prompts, torch.zeros(len(prompts), dtype=torch.bool)
    for n in range(limit + more):
        chosen = torch.where(finished, quiet, decode(tokens, memory)[:, at(n)].argmax(-1))
        finished = (chosen == END) | (finished & (not forget))
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
        if whole(finished):
            break
    return tokens[:, prompts.shape[1] :] if returns is None else returns(tokens)


def slip(checker, function, place, told, **changes):
    return checker, functools.partial(function, **changes), place, told


TOGETHER = {
    "two shares": (check.ended_share, [0.375, 0.625], 0, "expected one number"),
    "a count": (check.ended_share, 9, 1, "that is how many rows belong to ended words"),
    "all rows": (check.ended_share, 24, 1, "that is how many rows there are"),
    "no share": (check.ended_share, math.nan, 1, "nan came"),
    "those that go on": (check.ended_share, 0.63, 2, "that is the share of words that still go on"),
    "over those of use": (check.ended_share, 0.6, 2, "that is the ended rows over those of use"),
    "without a limit": (check.ended_share, 0.47, 2, "that is the share without a limit"),
    "the end's own pass": (check.ended_share, 0.5, 2, "the end symbol's own pass"),
    "with the start": (check.ended_share, 0.32, 2, "if the start symbol had a pass"),
    "lists": slip(check.say_all, rows_of, 0, "expected a tensor of ids", returns=lambda t: t[:, 2:].tolist()),
    "a single row": slip(check.say_all, rows_of, 0, "three prompts", returns=lambda t: t[:1, 2:]),
    "floats": slip(check.say_all, rows_of, 0, "float", returns=lambda t: t[:, 2:] * 1.0),
    "the start alone": slip(check.say_all, rows_of, 1, "came [[0], [0], [0]]", reads=lambda t: t[:, :1]),
    "nothing at first": slip(check.say_all, rows_of, 1, "the first call", first=lambda p: p.flip(1)),
    "an echo": slip(check.say_all, rows_of, 2, "they begin with the prompts", returns=lambda t: t),
    "the lowest scores": slip(check.say_all, rows_of, 3, "the first column", pick=torch.argmin),
    "half an echo": slip(check.say_all, rows_of, 3, "came [1, 3, 7]", returns=lambda t: t[:, 1:]),
    "the prompts for ever": slip(check.say_all, rows_of, 4, "came [0, 3]", reads=lambda t: t[:, :2]),
    "backwards": slip(check.say_all, rows_of, 4, "came [0, 1, 3]",
                      reads=lambda t: torch.cat([t[:, :1], t[:, 1:].flip(1)], 1)),
    "wakes up": slip(check.say_all, rows_of, 5, "came [4, 6, 2, 3", forget=True),
    "goes on": slip(check.say_all, rows_of, 5, "row 0", quiet=False),
    "the end for ever": (check.say_all, lambda *five: rows_of(*five[:4], five[3]), 5, "came [4, 6, 6"),
    "the first ends all": slip(check.say_all, rows_of, 6, "expected [1, 4, 1, 6]", whole=torch.any),
    "no limit of its own": slip(check.say_all, rows_of, 7, "row 2, whose limit is 3", own=False),
    "to the limit": slip(check.say_all, rows_of, 8, "expected 4 of each, came 9 passes", whole=never),
    "one pass more": slip(check.say_all, rows_of, 8, "came 10", whole=never, more=1),
    "in place": (check.say_all, lambda step, prompts, limits, end, pad: rows_of(
        step, prompts, limits.clamp_(max=8), end, pad), 9, "limits was changed"),
    "rows as lists": slip(check.write_batch, batch_of, 0, "expected a tensor", returns=lambda t: t[:, 1:].tolist()),
    "with START": slip(check.write_batch, batch_of, 1, "came [1, 3, 6, 5, 2]", returns=lambda t: t),
    "the first position": slip(check.write_batch, batch_of, 1, "came [3, 3, 3", at=lambda n: 0),
    "until one ends": slip(check.write_batch, batch_of, 2, "came [5, 2] and [3, 6]", whole=torch.any),
    "a word wakes up": slip(check.write_batch, batch_of, 3, "came [5, 2, 0, 4", forget=True),
    "END for ever": slip(check.write_batch, batch_of, 3, "came [5, 2, 2, 2]", quiet=END),
    "no rest": slip(check.write_batch, batch_of, 4, "came [5, 2, 0, 0, 0", returns=lambda t: torch.cat(
        [t[:, 1:], t[:, :1] * PAD], 1) if len(t) == 2 and t.shape[1] == 5 else t[:, 1:]),
    "the friend's": slip(check.write_batch, batch_of, 5, "the prompt is 1 7 7", at=lambda n: n),
    "a prompt unread": (check.write_batch, lambda d, p, m, limit: batch_of(d, p[:, :1], m, limit), 5, "came [3, 6"),
    "all but START": slip(check.write_batch, batch_of, 5, "came [7, 7, 5, 2]", returns=lambda t: t[:, 1:]),
    "one pass too many": slip(check.write_batch, batch_of, 6, "the limit is 6", more=1),
    "a prompt that counts": (check.write_batch, lambda d, p, m, limit: batch_of(d, p, m, limit + 1 - p.shape[1]), 6,
                             "the limit is 6"),
    "a limit of its own": (check.write_batch, lambda d, p, m, limit: batch_of(d, p, m, 60), 6, "for the 41st time"),
}  # fmt: skip
GENERATION_LAWS = {check.ended_share: generation.ENDED_SHARE, check.say_all: generation.SAY_ALL,
                   check.write_batch: generation.WRITE_BATCH}    # fmt: skip


def test_right_answers_pass_in_generation():
    for answer in (0.375, 0.37, 0.38, "0.38", torch.tensor(0.375)):
        assert quietly(check.ended_share, answer)
    assert quietly(check.say_all, rows_of) and quietly(check.write_batch, batch_of)
    assert quietly(check.say_all, functools.partial(rows_of, returns=lambda tokens: tokens[:, 2:].int()))
# Those of Remembering keys and values.
class SimpleCache:
    "The right answer; what a class of this base has otherwise is a slip."

    def __init__(self):
        self.length, self.tokens, self.memory = 0, {}, {}

    def advance(self, n_tokens):
        self.length += n_tokens

    def extend(self, layer, k, v):
        if layer in self.tokens:
            old_k, old_v = self.tokens[layer]
            k, v = torch.cat([old_k, k], 2), torch.cat([old_v, v], 2)
        self.tokens[layer] = k, v
        return k, v

    def keep(self, layer, project):
        if layer not in self.memory:
            self.memory[layer] = project()
        return self.memory[layer]


def cache_class(**slips):
    return type("SlippedCache", (SimpleCache,), slips)


def forgets(self, layer, k, v):
    found = SimpleCache.extend(self, layer, k, v)
    if len(self.tokens) > 1:
        raise RuntimeError("too many layers")
    return found


def counts_too(self, layer, k, v):
    self.length += k.shape[2]
    return SimpleCache.extend(self, layer, k, v)


class OneForAll(SimpleCache):
    everything: dict = {}

    def __init__(self):
        self.length, self.tokens, self.memory = 0, {}, self.everything


def follow(decode, cache, rows, chosen, after=False, to=lambda rows: rows, given=lambda tokens: tokens[:, -1:],
           new_cache=False, moves=lambda tokens, rows: tokens[rows]):    # fmt: skip
    tokens = torch.full((rows.shape[1], 1), START)
    scores = decode(tokens, cache)
    for from_rows, new in zip(rows, chosen):
        tokens = torch.cat([moves(tokens, from_rows), new[:, None]], 1)
        cache = Cache() if new_cache else cache
        if not after:
            cache.reorder(to(from_rows))
        scores = decode(given(tokens), cache)
        if after:
            cache.reorder(to(from_rows))
    return tokens, scores[:, -1]


REMEMBERING = {
    "a size": (check.cache_size, "much", 0, "expected one number"),
    "numbers": (check.cache_size, 7680, 2, "that is the number of numbers, not of bytes"),
    "no tokens": (check.cache_size, 7680.5, 1, "came"),
    "a negative size": (check.cache_size, -30_720, 1, "came"),
    "a layer": (check.cache_size, 10_240, 1, "that is of one layer"),
    "keys alone": (check.cache_size, 15_360, 2, "that is keys without values, or one group of two"),
    "all heads": (check.cache_size, 122_880, 2, "that is keys and values for each of the 8 heads"),
    "no memory": (check.cache_size, 23_040, 2, "that is without the memory's"),
    "one memory": (check.cache_size, 25_600, 1, "that is with the memory's once, and not in each layer"),
    "keys": (check.own_cache, cache_class(extend=lambda self, layer, k, v: k), 0, "expected keys and values"),
    "twice the keys": (check.own_cache, cache_class(extend=lambda self, layer, k, v: (k, k)), 0, "extend, 2 tokens"),
    "an error": (check.own_cache, cache_class(extend=lambda self, layer, k, v: k.nothing), 0,
                 "extend raised AttributeError"),
    "no class": (check.own_cache, lambda: 7, 0, "has no attribute"),
    "the newest alone": (check.own_cache, cache_class(extend=lambda self, layer, k, v: (k, v)), 3, "then 1, then 3"),
    "the newest first": (check.own_cache, cache_class(extend=lambda self, layer, k, v: [
        t.flip(2) for t in SimpleCache.extend(self, layer, k.flip(2), v.flip(2))]), 3, "then 1, then 3"),
    "one layer": (check.own_cache, cache_class(extend=lambda self, layer, k, v: SimpleCache.extend(self, 0, k, v)), 4,
                  "those of layer 0"),
    "an error in the second layer": (check.own_cache, cache_class(extend=forgets), 4,
                                     "extend raised RuntimeError: too many layers in your line"),
    "one layer's memory": (check.own_cache, cache_class(keep=lambda self, layer, project: SimpleCache.keep(
        self, 0, project)), 1, "keep, layer 1"),
    "nothing kept": (check.own_cache, cache_class(keep=lambda self, layer, project: None), 1, "keep, layer 0"),
    "each time": (check.own_cache, cache_class(keep=lambda self, layer, project: project()), 5,
                  "called for the layers [0, 1, 0, 1, 0]"),
    "one for all": (check.own_cache, OneForAll, 2, "keep of a second cache"),
    "counted twice": (check.own_cache, cache_class(extend=counts_too), 6, "in chunks of"),
    "not counted": (check.own_cache, cache_class(advance=lambda self, n_tokens: None), 6, "in chunks of [1, 1"),
    "passes counted": (check.own_cache, cache_class(advance=lambda self, n_tokens: SimpleCache.advance(self, 1)), 6,
                       "in chunks of [3, 2]"),
    "tokens alone": (check.moved_rows, lambda *four: follow(*four)[0], 0, "expected tokens and scores"),
    "of all positions": (check.moved_rows, lambda *four: (lambda t, s: (t, s[:, None]))(*follow(*four)), 0,
                         "expected shape (2, 9)"),
    "tokens that stay": (check.moved_rows, functools.partial(follow, moves=lambda tokens, rows: tokens), 1, "at [0,"),
    "all tokens, with the cache": (check.moved_rows, functools.partial(follow, given=lambda tokens: tokens), 2,
                                   "rows [[0, 1], [0, 1]]"),
    "the start, for ever": (check.moved_rows, functools.partial(follow, given=lambda tokens: tokens[:, :1]), 2,
                            "rows [[0, 1], [0, 1]]"),
    "all tokens, afresh": (check.moved_rows, functools.partial(follow, given=lambda tokens: tokens, new_cache=True), 3,
                           "came [1, 2, 3]"),
    "moved too late": (check.moved_rows, functools.partial(follow, after=True), 4, "[1, 0]"),
    "not moved": (check.moved_rows, functools.partial(follow, to=lambda rows: torch.arange(2)), 4, "[1, 0]"),
    "whereto": (check.moved_rows, functools.partial(follow, to=torch.argsort), 5, "[1, 1]"),
}  # fmt: skip
CACHING_LAWS = {check.cache_size: caching.CACHE_SIZE, check.own_cache: caching.OWN_CACHE,
                check.moved_rows: caching.MOVED_ROWS}    # fmt: skip


def test_right_answers_pass_in_caching():
    for answer in (30_720, 30_720.0, "30720", torch.tensor(30_720)):
        assert quietly(check.cache_size, answer)
    assert quietly(check.own_cache, SimpleCache) and quietly(check.own_cache, Cache)
    assert quietly(check.moved_rows, follow) and quietly(check.moved_rows, lambda *four: [*follow(*four)])


# Those of Choosing the token.
def min_p_of(logits, m, shares=lambda z: z.softmax(-1), best=lambda p: p.amax(-1, keepdim=True),
             keeps=lambda enough, z: z.masked_fill(~enough, -torch.inf)):    # fmt: skip
    p = shares(logits)
    return keeps(p >= m * best(p), logits)


def search_of(log_p, width, limit, copies=False, pays=0.0, keeps=True, skip=0, more=0, each=99, last=False):
    beam = [([START], 0.0)] * (width if copies else 1)
    for _ in range(limit + more):
        candidates = []
        for tokens, total in beam:
            if tokens[-1] == END:
                candidates += [(tokens, total - pays)] * keeps
                continue
            row = sorted(enumerate(log_p(tokens).tolist()), key=lambda pair: -pair[1])[:each]
            candidates += [([*tokens, token], x + (0 if last else total)) for token, x in row]
        beam = sorted(candidates, key=lambda pair: -pair[1])[skip : width + skip] or beam
    return beam


def mean_first(log_p, width, limit):
    return sorted(search_of(log_p, width, limit), key=lambda pair: -pair[1] / len(pair[0]))


CHOOSING = {
    "a share": (check.winner_share, "half", 0, "expected one number"),
    "a share of 1": (check.winner_share, 0.22, 1, "that is a share of 1; multiply by 100"),
    "a beginning": (check.winner_share, 24, 2, "that is a beginning that has not ended"),
    "the end's factor": (check.winner_share, 55, 2, "that is the last factor alone"),
    "greedy's": (check.winner_share, 13.2, 3, "that is what greedy decoding writes"),
    "a dropped one": (check.winner_share, 18, 3, "which was dropped"),
    "a mask of tokens": (check.min_p, functools.partial(min_p_of, keeps=lambda enough, z: enough), 0, "floats"),
    "one bar for all rows": (check.min_p, functools.partial(min_p_of, best=torch.max), 1, "rows unlike"),
    "a fixed bar": (check.min_p, functools.partial(min_p_of, best=lambda p: 1.0), 2, "expected"),
    "shares": (check.min_p, functools.partial(min_p_of, keeps=lambda enough, z: z.softmax(-1) * enough), 2, "expected"),
    "1 - m": (check.min_p, lambda z, m: min_p_of(z, 1 - m), 3, "m = 0"),
    "sigmoids": (check.min_p, functools.partial(min_p_of, shares=torch.sigmoid), 4, "+ 1"),
    "a billion": (check.min_p, functools.partial(min_p_of, keeps=lambda enough, z: z.masked_fill(~enough, -1e9)), 5,
                  "expected -inf"),
    "half of ln m": (check.min_p, lambda z, m: min_p_of(z, m**0.5), 5, "m = 0.03"),
    "a filter in place": (check.min_p, functools.partial(min_p_of, keeps=lambda enough, z: z.masked_fill_(
        ~enough, -torch.inf)), 6, "logits was changed"),
    "tokens without log p": (check.slots_apart, lambda *three: [t for t, _ in search_of(*three)], 0, "in pairs"),
    "by their means": (check.slots_apart, mean_first, 0, "falling order"),
    "no start": (check.slots_apart, lambda *three: [(t[1:], x) for t, x in search_of(*three)], 0, "start symbol first"),
    "the second best": (check.slots_apart, functools.partial(search_of, skip=1), 1, "width 1"),
    "the last step's log p": (check.slots_apart, functools.partial(search_of, last=True), 2, "for [1, "),
    "an end that pays": (check.slots_apart, functools.partial(search_of, pays=0.01), 2, "for [1, "),
    "three of a kind": (check.slots_apart, functools.partial(search_of, copies=True), 3, "came 3 times"),
    "ended and gone": (check.slots_apart, functools.partial(search_of, keeps=False), 4, "exercise 1"),
    "a step too many": (check.slots_apart, functools.partial(search_of, more=1), 5, "tokens were written"),
    "two of each": (check.slots_apart, functools.partial(search_of, each=2), 6, "in place"),
}  # fmt: skip
STRATEGIES_LAWS = {check.winner_share: strategies.WINNER_SHARE, check.min_p: strategies.MIN_P,
                   check.slots_apart: strategies.SLOTS_APART}    # fmt: skip


def test_right_answers_pass_in_strategies():
    for answer in (22, 22.0, "22", 40 * 0.55, torch.tensor(22.0)):
        assert quietly(check.winner_share, answer)
    assert quietly(check.min_p, min_p_of) and quietly(check.slots_apart, search_of)
    assert quietly(check.min_p, lambda z, m: z.masked_fill(z < z.amax(-1, keepdim=True) + math.log(m), -torch.inf)
                   if m else z.clone())    # fmt: skip
    assert quietly(check.slots_apart, lambda *three: [(torch.tensor(t), torch.tensor(x)) for t, x in search_of(*three)])


# Those of Looking inside.
def less_one(attn, h, x, k, v, mask, silent=None, bias=True):
    heads = fused(attn.queries(x), k, v, mask).index_fill(
        1, torch.tensor([h] if silent is None else silent, dtype=torch.long), 0)
    joined = heads.transpose(1, 2).flatten(2)
    return attn.out_proj(joined) if bias else joined @ attn.out_proj.weight.mT


def written_over(attn, h, x, k, v, mask, back=False):
    kept, part = attn.out_proj.weight.clone(), slice(h * attn.head_dim, (h + 1) * attn.head_dim)
    attn.out_proj.weight[:, part] = 0
    found = attn(x, k, v, mask)
    if back:
        attn.out_proj.weight.copy_(kept)
    return found


def rows_for_columns(attn, h, x, k, v, mask):
    return less_one(attn, h, x, k, v, mask, silent=[]).index_fill(2, torch.tensor([2 * h, 2 * h + 1]), 0)


def some_other(mask, column, real=True, other=True):
    may = mask.float() if real else torch.ones(mask.shape)
    return torch.multinomial(may.scatter(1, column[:, None], 0) if other else may, 1).squeeze(1)


INSIDE = {
    "a word": (check.columns_in_effect, "three", 0, "expected one number"),
    "more than there are": (check.columns_in_effect, 5.755, 1, "that is e raised to what was counted in base 2"),
    "no end of it": (check.columns_in_effect, math.inf, 1, "inf came"),
    "the number": (check.columns_in_effect, 4, 2, "that is the number of columns"),
    "bits": (check.columns_in_effect, 1.75, 2, "that is the entropy in base 2"),
    "squares": (check.columns_in_effect, 2.91, 2, "that is one over the sum of squares"),
    "heads apart": (check.without_head, lambda attn, h, x, k, v, mask: fused(attn.queries(x), k, v, mask), 0,
                    "two rows of three queries"),
    "nobody": (check.without_head, lambda *six: less_one(*six, silent=[]), 1, "other values for head 0"),
    "the next one": (check.without_head, lambda *six: less_one(*six, silent=[(six[1] + 1) % 4]), 1, "for head 0"),
    "rows of W_O": (check.without_head, rows_for_columns, 1, "other values for head 0"),
    "everybody": (check.without_head, lambda *six: less_one(*six, silent=[0, 1, 2, 3]), 2, "head 0 is silent"),
    "no bias": (check.without_head, lambda *six: less_one(*six, bias=False), 3, "the values of head 0 are 0"),
    "no mask": (check.without_head, lambda *six: less_one(*six[:-1], None), 3, "the values of head 0 are 0"),
    "written over": (check.without_head, written_over, 4, "out_proj.weight is not what it was"),
    "a table": (check.other_columns, lambda *two: some_other(*two)[:, None], 0, "of shape (1600, 1)"),
    "booleans": (check.other_columns, lambda mask, column: mask[:, 0], 0, "torch.bool"),
    "its own": (check.other_columns, lambda mask, column: column, 1, "1600 times"),
    "its own, too": (check.other_columns, lambda *two: some_other(*two, other=False), 1, "the head's own"),
    "padding, too": (check.other_columns, lambda *two: some_other(*two, real=False), 2, "padding was drawn"),
    "the next column": (check.other_columns, lambda mask, column: (column + 1) % mask.sum(1), 3, "draws"),
    "in place": (check.other_columns, lambda mask, column: torch.multinomial(
        mask.scatter_(1, column[:, None], False).float(), 1).squeeze(1), 4, "was changed in place"),
}  # fmt: skip
INSIDE_LAWS = {check.columns_in_effect: looking_inside.COLUMNS_IN_EFFECT,
               check.without_head: looking_inside.WITHOUT_HEAD,
               check.other_columns: looking_inside.OTHER_COLUMNS}    # fmt: skip


def test_right_answers_pass_in_looking_inside():
    for answer in (2**1.75, 3.36, "3.364", torch.tensor(3.3636)):
        assert quietly(check.columns_in_effect, answer)
    assert quietly(check.without_head, less_one) and quietly(check.other_columns, some_other)
    assert quietly(check.without_head, functools.partial(written_over, back=True))


# Those of The bug museum.
def behind(attn, x, old_k, old_v, mask=causal_mask, join=lambda old, new: [old, new], first=causal_mask):
    k, v = attn.keys_values(x)
    if old_k is not None:
        k, v = torch.cat(join(old_k, k), 2), torch.cat(join(old_v, v), 2)
    return attn(x, k, v, (first if old_k is None else mask)(x.shape[1], k.shape[2])), k, v


def behind_and_emptied(attn, x, old_k, old_v):
    found = behind(attn, x, old_k, old_v)
    x.zero_()
    return found


def looks_ahead(decode, tokens, vocab_size, shifts=(1, 2), near=1e-4, changes=range(1, 6), compares=lambda t: t):
    before = decode(tokens)
    for t, shift in itertools.product(changes, shifts):
        other, until = tokens.clone(), compares(t)
        other[:, t:] = 3 + (other[:, t:] - 3 + shift) % (vocab_size - 3)
        if not torch.allclose(decode(other)[:, :until], before[:, :until], rtol=near, atol=near):
            return True
    return False


def looks_ahead_in_place(decode, tokens, vocab_size):
    found = looks_ahead(decode, tokens, vocab_size)
    tokens[:, 1:] = 3
    return found


MUSEUM = {
    "a formula": (check.softmaxed_floor, "ln 2", 0, "expected one number"),
    "equal shares": (check.softmaxed_floor, math.log(5), 1, "that is what equal shares cost"),
    "nothing": (check.softmaxed_floor, 0, 1, "after one softmax"),
    "bits": (check.softmaxed_floor, 1.305, 2, "in bits"),
    "a probability": (check.softmaxed_floor, 0.405, 2, "that is the probability"),
    "six tokens": (check.softmaxed_floor, 1.04, 2, "that is the floor of six tokens"),
    "an output alone": (check.go_on, lambda *four: behind(*four)[0], 0, "expected an output, k and v"),
    "all see all": (check.go_on, functools.partial(behind, first=lambda *two: None), 1, "3 new behind 0"),
    "the newest first": (check.go_on, functools.partial(behind, join=lambda old, new: [new, old]), 2, "the keys after"),
    "forgotten": (check.go_on, functools.partial(behind, join=lambda old, new: [new]), 2, "the keys after"),
    "upper left": (check.go_on, functools.partial(behind, mask=lambda q, k: torch.ones(q, k, dtype=torch.bool).tril()),
                   3, "6 times 1 new position"),
    "no mask behind a past": (check.go_on, functools.partial(behind, mask=lambda *two: None), 4, "2, 3 and 1"),
    "emptied": (check.go_on, behind_and_emptied, 5, "the input x was changed in place"),
    "a word": (check.sees_future, lambda *three: "no", 0, "expected True or False"),
    "a table of answers": (check.sees_future, lambda decode, tokens, v: tokens > 9, 0, "expected True or False"),
    "always": (check.sees_future, lambda *three: True, 1, "a causal mask: expected False"),
    "its own, too": (check.sees_future, functools.partial(looks_ahead, compares=lambda t: t + 1), 1, "expected False"),
    "never": (check.sees_future, lambda *three: False, 2, "no mask: expected True"),
    "the last, at the first": (check.sees_future, functools.partial(
        looks_ahead, changes=[5], compares=lambda t: 1), 3, "each sees one too many"),
    "one place": (check.sees_future, functools.partial(looks_ahead, changes=[1]), 4, "the last but one"),
    "one other token": (check.sees_future, functools.partial(looks_ahead, shifts=(1,)), 5, "look alike"),
    "to the last bit": (check.sees_future, functools.partial(looks_ahead, near=0), 6, "and rounding"),
    "in place": (check.sees_future, looks_ahead_in_place, 7, "the input tokens was changed"),
}  # fmt: skip
MUSEUM_LAWS = {check.softmaxed_floor: bug_museum.SOFTMAXED_FLOOR, check.go_on: bug_museum.GO_ON,
               check.sees_future: bug_museum.SEES_FUTURE}    # fmt: skip


def test_right_answers_pass_in_the_bug_museum():
    for answer in (math.log(1 + 4 / math.e), 0.9, "0.905", torch.tensor(0.905)):
        assert quietly(check.softmaxed_floor, answer)
    assert quietly(check.go_on, behind) and quietly(check.sees_future, looks_ahead)
    assert quietly(check.sees_future, functools.partial(looks_ahead, shifts=(2, 3, 5)))
    assert quietly(check.sees_future, lambda *three: torch.tensor(looks_ahead(*three)))


# Those of Training.
def stepped(
    model, batch, optimizer, leaves_out="", up=1.0, gives=lambda loss, again: loss.item(), clears=lambda model: None
):
    if leaves_out != "train":
        model.train()
    ask = lambda: model(batch.source, batch.inputs, batch.source_mask)    # noqa: E731
    mask = None if leaves_out == "mask" else batch.target_mask
    loss = cross_entropy(ask(), batch.targets, mask)
    if leaves_out != "zero_grad":
        model.zero_grad()
    (up * loss).backward()
    if leaves_out != "clip":
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    clears(model)
    if leaves_out != "step":
        optimizer.step()
    if leaves_out != "eval":
        model.eval()
    return gives(loss, lambda: cross_entropy(ask(), batch.targets, mask))


def slipped(**slip):
    return functools.partial(stepped, **slip)


def measured(model, batches, calm=True, weighs=lambda batch: batch.target_mask.sum(), loss=None):
    model.train(not calm)
    total = places = 0
    for batch in batches:
        logits = model(batch.source, batch.inputs, batch.source_mask)
        found = (loss or cross_entropy)(logits, batch.targets, batch.target_mask)
        total, places = total + weighs(batch) * found, places + weighs(batch)
    return total / places


LEARNING_SLIPS = {
    "a word": (check.least_loss, "little", 0, "expected one number"),
    "nothing": (check.least_loss, 0, 1, "that is no loss"),
    "the toss-up": (check.least_loss, 1.1, 1, "that is of the one place"),
    "no end symbol": (check.least_loss, 0.275, 2, "that is without the place of the end symbol"),
    "of two": (check.least_loss, 0.139, 2, "that is a toss-up between two"),
    "no end to it": (check.least_loss, math.inf, 1, "inf came"),
    "two losses": (check.one_step, slipped(gives=lambda loss, again: [loss, loss]), 0, "expected one number"),
    "stays": (check.one_step, slipped(leaves_out="step"), 1, "the weights after a step: expected"),
    "uphill": (check.one_step, slipped(up=-1.0), 1, "the weights after a step: expected"),
    "cleared too late": (check.one_step, slipped(clears=lambda model: model.zero_grad()), 1, "the weights after"),
    "asked again": (check.one_step, slipped(gives=lambda loss, again: again()), 2, "the loss: expected"),
    "never cleared": (check.one_step, slipped(leaves_out="zero_grad"), 3, "a gradient of ones was left over"),
    "never cut": (check.one_step, slipped(leaves_out="clip"), 4, "with a long gradient"),
    "calm": (check.one_step, slipped(leaves_out="train"), 5, "gave the loss that it has without"),
    "padding in it": (check.one_step, slipped(leaves_out="mask"), 6, "words of one and of four sounds"),
    "left excited": (check.one_step, slipped(leaves_out="eval"), 7, "in training after the step"),
    "losses": (check.validation_loss, lambda model, batches: [1.0, 2.0], 0, "expected one number"),
    "in training": (check.validation_loss, lambda *two: measured(*two, calm=False), 1, "a model with dropout"),
    "a mean of means": (check.validation_loss, lambda *two: measured(*two, weighs=lambda batch: 1), 2, "(1, 5) words"),
    "by words": (check.validation_loss, lambda *two: measured(*two, weighs=lambda b: len(b.source)), 2, "words"),
    "padding, too": (check.validation_loss, lambda *two: measured(
        *two, loss=lambda logits, targets, mask: cross_entropy(logits, targets)), 2, "words"),
    "smoothed": (check.validation_loss, lambda *two: measured(
        *two, loss=lambda *three: cross_entropy(*three, 0.1)), 3, "one batch of six words"),
}  # fmt: skip
TRAINING_LAWS = {check.least_loss: training.LEAST_LOSS, check.one_step: training.ONE_STEP,
                 check.validation_loss: training.VALIDATION_LOSS}    # fmt: skip


def test_right_answers_pass_in_training():
    for answer in (0.22, "0.22", math.log(3) / 5, torch.tensor(0.2197)):
        assert quietly(check.least_loss, answer)
    assert quietly(check.one_step, stepped)
    assert quietly(check.one_step, slipped(gives=lambda loss, again: loss))
    assert quietly(check.validation_loss, measured)
    assert quietly(check.validation_loss, lambda *two: measured(*two).item())


# All slips of these pages.
SLIPS = {
    "tour": TOUR,
    "primer": PRIMER,
    "attention": ATTENDING,
    "embedding": PLACING,
    "reading": READING,
    "norms": NORMING,
    "decoder": STACKING,
    "encoder": CLIMBING,
    "projection": SCORING,
    "softmax": SOFTENING,
    "generation": TOGETHER,
    "caching": REMEMBERING,
    "strategies": CHOOSING,
    "training": LEARNING_SLIPS,
    "ablations": COMPARING,
    "looking_inside": INSIDE,
    "bug_museum": MUSEUM,
    "fast_decoding": FAST,
    "pretrained": REAL,
    "scaling_out": SPREAD,
}
ALL_LAWS = {
    **TOUR_LAWS,
    **LAWS,
    **ATTENTION_LAWS,
    **EMBEDDING_LAWS,
    **READING_LAWS,
    **NORM_LAWS,
    **DECODER_LAWS,
    **ENCODER_LAWS,
    **PROJECTION_LAWS,
    **SOFTMAX_LAWS,
    **GENERATION_LAWS,
    **CACHING_LAWS,
    **STRATEGIES_LAWS,
    **TRAINING_LAWS,
    **COMPARING_LAWS,
    **INSIDE_LAWS,
    **MUSEUM_LAWS,
    **FAST_LAWS,
    **REAL_LAWS,
    **SPREAD_LAWS,
}


@pytest.mark.parametrize("page, name", [(page, name) for page, slips in SLIPS.items() for name in slips])
def test_a_slip_breaks_first_the_law_meant_for_it(page, name):
    checker, answer, place, told = SLIPS[page][name]
    assert quietly(checker, answer).broken[0] == ALL_LAWS[checker][place].name
    assert told in words(checker, answer)


@pytest.mark.parametrize("checker", ALL_LAWS)
def test_every_law_is_the_first_that_some_slip_breaks(checker):
    found = {place for slips in SLIPS.values() for of, _, place, _ in slips.values() if of is checker}
    assert found == {*range(len(ALL_LAWS[checker]))}


# Whatever it is given.
class Evil:
    "Everything that can be asked of it raises."

    def __getattribute__(self, name):
        raise SystemExit(name)

    __repr__ = __str__ = __eq__ = __len__ = __iter__ = __bool__ = __getattribute__
    __hash__ = None


class EvilError(BaseException):
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
THINGS = [
    None, ..., 0, 1.5, math.nan, "text", b"bytes", [], {}, object(), nested, 10**5000, Evil(), EvilCallable(),
    torch.zeros(3), torch.zeros(2, 3, 3).int(), torch.zeros(2, 3, 3, dtype=torch.complex64), np.zeros(3),
    torch.zeros(2, 3, 3, device="meta"), torch.zeros(2, 3, 3).to_sparse(), torch.zeros(2, 3, 3), np.array(["a"] * 3),
    torch.nested.nested_tensor([torch.ones(2)]),
]  # fmt: skip
ERRORS = [
    NotImplementedError(), EvilError(), SystemExit(3), GeneratorExit(), ExceptionGroup("several", [ValueError("a")]),
    MemoryError(), Broken("mine"), StopIteration(),
]  # fmt: skip
JUNK = [
    *THINGS, *((lambda *args, thing=thing: thing) for thing in THINGS), *map(raising, ERRORS), Evil, EvilError, object,
    nn.Linear(3, 3), len, print, dict, int, lambda: 0, lambda *args: args, lambda *args: args[0], lambda **kw: 0,
    lambda x, *args: x * math.nan, closes_everything, meddles, deep, endless, functools.partial(right, 1),
]  # fmt: skip


FEW = [THINGS[5], THINGS[10], THINGS[12], raising(EvilError()), raising(Broken("mine")), lambda *args: Evil(),
       closes_everything, meddles, endless, deep]    # fmt: skip


def stays_calm(checker, junk):
    dtype, stdout, filters = torch.get_default_dtype(), sys.stdout, list(warnings.filters)
    state = torch.get_rng_state()
    report = quietly(checker, junk)
    assert not report and not report.passed
    assert torch.get_default_dtype() == dtype and sys.stdout is stdout and warnings.filters == filters
    assert torch.is_grad_enabled() and torch.equal(torch.get_rng_state(), state)
    assert "0x" not in report.text and all(len(line) <= 90 for line in report.text.splitlines())


@pytest.mark.parametrize("number", range(len(JUNK)))
@pytest.mark.parametrize("checker", [check.longer_query, check.read_memory, check.say, check.own_cache])
def test_a_check_never_raises_and_leaves_everything_as_it_was(checker, number):
    "One checker of each kind: of a number, of arithmetic, of a loop, of a class. They share what catches."
    stays_calm(checker, JUNK[number])


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_check_stays_calm(checker):
    for junk in FEW:
        stays_calm(checker, junk)


@pytest.mark.parametrize("checker", CHECKERS)
def test_a_bad_hint_is_answered_in_words(checker):
    for hint in [0, 4, -1, True, 1.0, "2", None, Evil(), [1], torch.tensor(1)]:
        text = quietly(checker, None, hint=hint).text
        assert text.startswith("Of hints there are 1 (a nudge), 2 (where to look) and 3 (nearly the code).")
        assert "Hint 1 of 3" in text


def test_only_an_interrupt_passes_through(capsys):
    for checker in CHECKERS[len(BY_HAND) :]:
        with pytest.raises(KeyboardInterrupt):
            checker(raising(KeyboardInterrupt()))
    assert not torch.is_inference_mode_enabled() and capsys.readouterr().out == ""
    assert "it raised SystemExit: 3" in words(check.read_memory, raising(SystemExit(3)))


def test_a_stream_that_cannot_be_written_to_is_no_reason_to_raise():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError("no space left")

    with contextlib.redirect_stdout(Full()):
        assert check.read_memory(right)


@pytest.mark.parametrize("checker", CHECKERS)
def test_an_untouched_stub_gets_a_short_report(checker):
    stubs = [None, ..., NotImplemented, (None, None, None), [..., ...]]
    if checker not in BY_HAND:
        stubs += [lambda *args: None, lambda *args: (..., ...), raising(NotImplementedError())]
    for stub in stubs:
        report = quietly(checker, stub)
        assert not report and report.broken == () and "is still to be written" in report.text
        assert len(report.text.splitlines()) <= 4


@pytest.mark.parametrize("checker, laws", [(check.padded_weights, exercises.PADDED_WEIGHTS),
                                           (check.numbers_kept, exercises.NUMBERS_KEPT),
                                           *ALL_LAWS.items(),
                                           (check.read_memory, exercises.READ_MEMORY)])    # fmt: skip
def test_one_hint_of_the_grade_that_was_asked_for(checker, laws):
    assert all(len(set(each.hints)) == 3 for each in laws)
    wrong = reading(weigh=lambda s, m: s.softmax(-1)) if checker is check.read_memory else None
    hints = next(each.hints for each in laws if each.name == MORE or wrong is None)
    for i, j in itertools.product(range(3), range(3)):
        text = words(checker, wrong, hint=i + 1)
        assert (" ".join(hints[j].split()) in text) == (i == j)
        assert (f"check.{checker.__name__}(yours, hint={i + 2})" in text) == (i < 2)


INPUTS = "The inputs: from annotated_decoder.check.cross_attention import case, padded"


@wrong_functions
def test_a_report_that_names_a_case_ends_with_where_to_get_it(function, meant):
    report = quietly(check.read_memory, function)
    *others, last = report.text.splitlines()
    raised = "it raised" in report.text    # then the reader's line is named, in place of a case
    assert INPUTS not in others and (last == INPUTS) == (meant != KEPT and not raised)
    for each in report.laws:
        assert each.named == each.case.startswith(("case(", "padded("))
    imported: dict = {}
    exec(INPUTS.removeprefix("The inputs: "), imported)
    for call in {re.match(r"(?:case|padded)\(.*?\)", each.case)[0] for each in report.laws if each.named}:
        assert set(eval(call, imported | {"torch": torch})) == {*exercises.case(0)}
    torch.rand(3)
    assert quietly(check.read_memory, function).text == report.text    # the same every time


def test_where_no_case_is_named_nothing_is_said_of_inputs():
    for checker, answer in itertools.product(CHECKERS, (right, None, 7, raising(ValueError("x")), in_place)):
        assert "The inputs" not in quietly(checker, answer).text


def test_a_report_holds_no_noise_of_rounding():
    noisy, plain = (after(lambda found, k=k: 2 * found * (1 + k)) for k in (3e-8, 0))
    assert quietly(check.read_memory, noisy).text == quietly(check.read_memory, plain).text
    numbers = (0.12349, -1e-9, 2.0, 1234567.8, -math.inf, math.nan, 0.0006, 1200.0)
    assert [*map(say_number, numbers)] == ["0.123", "0", "2", "1.23457e+06", "-inf", "nan", "0.001", "1200"]


def test_a_report_names_the_readers_own_line_and_keeps_what_is_printed_apart():
    def read_memory(x, *others):
        return helper(x) if x.shape == (2, 3, 5) else right(x, *others)

    def helper(x):
        return x.view(7, 7)    # here

    report = quietly(check.read_memory, read_memory)
    line = helper.__code__.co_firstlineno + 1
    assert f"\n             in your line {line}: return x.view(7, 7)" in report.text
    assert [each.outcome for each in report.laws] == ["broken"] + ["not tried"] * 15
    assert "It printed: hello" in words(check.read_memory, lambda *six: print("hello") or right(*six))


def test_a_check_can_be_asked_for_anywhere():
    before = torch.get_default_dtype()
    try:
        for place in (torch.no_grad, torch.inference_mode, functools.partial(torch.set_default_dtype, torch.float64)):
            with place() or contextlib.nullcontext():
                assert quietly(check.read_memory, right)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_every_call_gets_copies_and_the_first_change_is_named():
    yours, c = Tried(in_place), exercises.padded(0)
    copies = {name: value.clone() for name, value in c.items()}
    yours(*c.values())
    assert yours.changed == "memory" and all(torch.equal(c[name], copies[name]) for name in c)
    for change in (lambda x: x.unsqueeze_(0), lambda x: x.mul_(math.nan), lambda x: x.zero_()):
        yours = Tried(change)
        yours(torch.ones(2))
        assert yours.changed == "x"
    for given, change in (([0], lambda y: y.append(1)), ([torch.ones(2), torch.zeros(1)], lambda y: y[0].zero_())):
        for moves, changed in ((change, "y"), (lambda y: None, "")):
            yours = Tried(lambda x, y, moves=moves: (moves(y), x))
            yours(torch.ones(2), given)
            assert yours.changed == changed


def test_a_report_is_short_where_it_is_shown():
    report = quietly(check.read_memory, WRONG["no scale"][0])
    assert repr(report) == "<Report: 14 of 16 laws hold>"
    assert report._ipython_display_() is None
    with pytest.raises(AttributeError):
        report.text = "other"


def test_a_law_whose_own_trial_fails_is_broken_and_says_so():
    first, second = law("first", "a", "b", "c")(lambda yours: None), law("second", "a", "b", "c")(lambda yours: 1 / 0)
    report = quietly(try_laws, right, (first, second), "check_this")
    assert report.broken == ("second",) and "could not be tried: ZeroDivisionError: division by zero" in report.text
    assert report.text.startswith("this: ") and quietly(try_laws, 3, (first,), "check_this")
    assert describe_error(EvilError()) == "an error that cannot say what it is"


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
