"""Filters keep what they promise, draws follow the probabilities, and beam search is exact where it can be."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import (
    TOLERANCE,
    VOCAB,
    Rounded,
    dtypes,
    every_sequence,
    few,
    ids,
    lengths,
    mask,
    model,
    noise,
    passes,
    seeds,
    shapes,
    token_scores,
)
from torch.testing import assert_close

from annotated_decoder.caching import Cache
from annotated_decoder.encoder_outputs import END, PAD
from annotated_decoder.generation import EncoderDecoder, generate, generate_steps
from annotated_decoder.strategies import beam_search, highest, sampler, top_k, top_p

# Few distinct values, so that equals are common.
tied_logits = st.builds(
    lambda row, dtype: torch.tensor([row], dtype=dtype),
    st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=8),
    dtypes,
)


class NearTies(EncoderDecoder):
    "Logits of 1 and of the next number in single precision."

    def decode(self, *args):
        one = torch.ones(())
        return torch.where(super().decode(*args) > 0, one.nextafter(2 * one), one)


def rescored(made, source, sequences):
    "Σ log p of the tokens of each sequence."
    return [sum(scores) for scores in token_scores(made, source, sequences)]


@given(seeds, shapes, lengths, st.integers(1, 12), st.sampled_from([EncoderDecoder, Rounded, NearTies]))
def test_a_beam_of_one_is_greedy(seed, shape, sources, limit, kind):
    made, real = model(seed, end_bias=1.0, kind=kind, **shape), mask(*sources)
    source = ids(*real.shape, seed)
    for row, [best] in zip(
        generate(made, source, real, max_steps=limit, cache=Cache()).tolist(),    # the cache: equal to the last bit
        beam_search(made, source, real, width=1, max_steps=limit),
        strict=True,
    ):
        length = row.index(END) + 1 if END in row else len(row)
        assert best.tokens == tuple(row[:length])


def test_rounded_logits_do_tie():
    ties = 0
    for seed in range(5):
        for step in generate_steps(model(seed, kind=Rounded, end_bias=1.0), ids(4, 5, seed), max_steps=3):
            first, second = step.logits.topk(2).values.unbind(-1)
            ties += (first == second).sum().item()
    assert ties > 5


def test_among_equals_the_first_slot_and_the_lowest_ids_stay():
    made = model(vocab_size=60, end_bias=-1e9)
    with torch.no_grad():
        made.projection.weight.zero_()
        made.projection.bias[:END] = made.projection.bias[END + 1 :] = 0.0
    [found] = beam_search(made, ids(1, 3), width=6, max_steps=3)    # 360 continuations, as good as each other
    assert [h.tokens for h in found] == [(PAD, PAD, token) for token in (0, 1, 3, 4, 5, 6)]


@pytest.mark.parametrize("width, limit, passed", [(1, 12, 1), (3, 12, 2), (3, 1, 1)])
def test_the_search_ends_with_its_last_hypothesis(width, limit, passed):
    made = model(end_bias=1e3)    # the end symbol first, or at the latest after one other token
    seen = passes(made.decoder)
    [found] = beam_search(made, ids(1, 3), width=width, max_steps=limit)
    assert seen == [(width, 1)] * passed
    assert max(len(h.tokens) for h in found) == passed


@few
@given(seeds, shapes, st.integers(1, 4), st.integers(1, 3), st.sampled_from([0.0, 0.7, 1.0]))
def test_a_beam_wide_enough_is_brute_force(seed, shape, length, limit, length_penalty):
    made, source = model(seed, vocab_size=5, **shape), ids(1, length, seed, 5)
    sequences = list(every_sequence(5, limit))
    found = beam_search(made, source, width=len(sequences) + 15, length_penalty=length_penalty, max_steps=limit)[0]
    totals = zip(sequences, rescored(made, source, sequences), strict=True)
    scores = {s: total / len(s) ** length_penalty for s, total in totals}
    assert {h.tokens: h.score for h in found} == pytest.approx(scores, rel=TOLERANCE[shape["dtype"]])
    assert scores[found[0].tokens] == pytest.approx(max(scores.values()), rel=TOLERANCE[shape["dtype"]])
    assert len(found) == len(sequences) == sum(4**n for n in range(limit)) + 4**limit


@few
@given(seeds, shapes, st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.floats(0, 2))
def test_the_score_is_the_rescored_log_probability_over_the_length(seed, shape, batch, length, width, length_penalty):
    made, source = model(seed, end_bias=1.0, **shape), ids(batch, length, seed)
    found = beam_search(made, source, width=width, length_penalty=length_penalty, max_steps=6)
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == len({h.tokens for h in hypotheses}) == width
        totals = rescored(made, source[row : row + 1], [h.tokens for h in hypotheses])
        assert [h.log_probability for h in hypotheses] == pytest.approx(totals, rel=TOLERANCE[shape["dtype"]])
        for h in hypotheses:
            assert h.score == pytest.approx(h.log_probability / len(h.tokens) ** length_penalty)
            assert END not in h.tokens[:-1]
            assert h.tokens[-1] == END or len(h.tokens) == 6


@few
@given(seeds, shapes, st.integers(1, 5), st.floats(0, 2))
def test_the_best_hypothesis_comes_first(seed, shape, width, length_penalty):
    made = model(seed, end_bias=1.0, **shape)
    found = beam_search(made, ids(3, 4, seed), width=width, length_penalty=length_penalty)
    for hypotheses in found:
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)


def test_a_length_penalty_favours_longer_sequences():
    def lengths(penalty):
        found = (beam_search(model(seed, end_bias=2.0), ids(2, 4), length_penalty=penalty) for seed in range(4))
        return [len(hypotheses[0].tokens) for rows in found for hypotheses in rows]

    assert sum(lengths(1.0)) > sum(lengths(0.0))


@few
@given(seeds, shapes, lengths, st.integers(1, 4))
def test_a_padded_batch_is_its_sources_one_by_one(seed, shape, sources, width):
    made, real = model(seed, end_bias=1.0, **shape), mask(*sources, width=6)
    source = ids(*real.shape, seed)
    together = beam_search(made, source, real, width=width, length_penalty=0.5)
    for row, length in enumerate(sources):
        [alone] = beam_search(made, source[row : row + 1, :length], width=width, length_penalty=0.5)
        assert [h.tokens for h in together[row]] == [h.tokens for h in alone]
        scores = [h.score for h in alone]
        assert [h.score for h in together[row]] == pytest.approx(scores, rel=TOLERANCE[shape["dtype"]])


def test_beam_search_refuses_what_it_cannot_serve():
    with pytest.raises(ValueError, match="width is 0;.*at least 1"):
        beam_search(model(), ids(1, 3), width=0)
    with pytest.raises(ValueError, match="length_penalty is nan; give 0 for none, or up to 10"):
        beam_search(model(), ids(1, 3), length_penalty=float("nan"))
    with pytest.raises(ValueError, match="training mode"):
        beam_search(model().train(), ids(1, 3))
    with pytest.raises(ValueError, match=r"rows \[0\] are fully masked"):
        beam_search(model(), ids(2, 3), mask(0, 3))
    with pytest.raises(ValueError, match="max_steps is 13"):
        beam_search(model(), ids(1, 3), max_steps=13)


def kept(logits):
    return set((logits[0] > -torch.inf).nonzero().flatten().tolist())


@given(tied_logits, st.integers(1, 10))
def test_top_k_keeps_the_k_best_and_the_lower_ids_among_equals(logits, k):
    found = top_k(logits, k)
    ranked = sorted(range(logits.shape[1]), key=lambda i: (-logits[0, i].item(), i))
    assert kept(found) == set(ranked[:k])
    assert torch.equal(found[found > -torch.inf], logits[0, sorted(ranked[:k])])


@given(tied_logits, st.floats(0.01, 0.99))
def test_top_p_keeps_the_fewest_best_that_reach_p(logits, p):
    found, shares = top_p(logits, p), logits.softmax(-1)[0]
    ranked = sorted(range(logits.shape[1]), key=lambda i: (-logits[0, i].item(), i))
    nucleus = ranked[: len(kept(found))]
    assert kept(found) == set(nucleus)
    slack = 10 * torch.finfo(logits.dtype).eps
    assert shares[nucleus].sum() >= p - slack
    assert shares[nucleus[:-1]].sum() < p + slack
    assert torch.equal(found[found > -torch.inf], logits[0, sorted(nucleus)])


@given(seeds, dtypes, st.integers(1, 4), st.integers(1, VOCAB), st.integers(0, 3))
def test_filters_that_allow_all_change_nothing(seed, dtype, batch, vocab_size, more):
    logits = noise(batch, vocab_size, seed=seed, dtype=dtype) * 30
    assert torch.equal(top_k(logits, vocab_size + more), logits)
    assert torch.equal(top_p(logits, 1.0), logits)


def test_top_p_stops_where_p_is_reached_exactly():
    assert [kept(top_p(torch.zeros(1, 4), p)) for p in (0.25, 0.5, 0.75)] == [{0}, {0, 1}, {0, 1, 2}]


@given(tied_logits, st.sampled_from([1e-9, 1e-46, 1e-300]))
def test_a_tiny_p_still_keeps_the_best(logits, p):
    assert kept(top_p(logits, p)) == {logits.argmax().item()}


@pytest.mark.parametrize("k", [0, -2])
def test_top_k_refuses_to_keep_nothing(k):
    for refuse in (lambda: top_k(torch.zeros(1, 3), k), lambda: sampler(k=k)):
        with pytest.raises(ValueError, match=f"k is {k}; keep at least 1"):
            refuse()


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, float("nan")])
def test_top_p_refuses_what_is_no_probability(p):
    for refuse in (lambda: top_p(torch.zeros(1, 3), p), lambda: sampler(p=p)):
        with pytest.raises(ValueError, match=f"p is {p}; it must be above 0 and at most 1"):
            refuse()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_sampler_refuses_a_temperature_not_above_zero(temperature):
    with pytest.raises(ValueError, match=f"temperature is {temperature};.*greedily"):
        sampler(temperature)


def drawn(logits, n=20_000, **options):
    "The share of each token among n draws."
    choose = sampler(generator=torch.Generator().manual_seed(0), **options)
    return torch.bincount(choose(logits.expand(n, -1)), minlength=logits.shape[1]) / n


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_probabilities(temperature):
    logits = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    expected = (logits[0] / temperature).softmax(-1)
    assert_close(drawn(logits, temperature=temperature), expected, atol=0.015, rtol=0)


def test_a_filtered_token_is_never_drawn():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert_close(drawn(logits, k=2), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.015, rtol=0)
    assert_close(drawn(logits, p=0.65), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.015, rtol=0)
    assert drawn(logits, k=1).tolist() == [1, 0, 0, 0]


def test_temperature_comes_before_top_p_and_top_k_before_it_too():
    peaked, flat = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert (drawn(peaked, p=0.55) > 0).tolist() == [True, False, False]
    assert (drawn(peaked, p=0.55, temperature=2.0) > 0).tolist() == [True, True, False]
    assert (drawn(flat, p=0.5) > 0).tolist() == [True, True, False, False]
    assert (drawn(flat, p=0.5, k=2) > 0).tolist() == [True, False, False, False]


def test_one_generator_seed_is_one_draw_and_the_global_state_is_left_alone():
    made, source, before = model(end_bias=-1e9), ids(3, 4), torch.get_rng_state()
    once, again, other = (
        generate(made, source, choose=sampler(generator=torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)
    )
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(torch.get_rng_state(), before)


@few
@given(seeds, shapes, st.sampled_from([dict(k=1), dict(p=1e-46), dict(temperature=1e-50), dict(temperature=1e-300)]))
def test_sampling_the_best_only_is_greedy(seed, shape, options):
    made, source = model(seed, end_bias=1.0, **shape), ids(4, 5, seed)
    choose = sampler(**options, generator=torch.Generator().manual_seed(0))
    assert torch.equal(generate(made, source, choose=choose), generate(made, source))


def test_padding_may_be_said_before_the_end():
    made = model(vocab_size=5)
    with torch.no_grad():
        made.projection.bias[PAD] += 1e3
    [[best]] = beam_search(made, ids(1, 3, vocab_size=5), width=1, max_steps=3)
    assert best.tokens == (PAD,) * 3


def test_among_very_many_equals_the_lower_ids_stay():
    level = torch.zeros(1, 360)
    assert kept(top_k(level, 5)) == set(range(5))
    assert kept(top_p(level, 17.5 / 360)) == set(range(18))


def test_beam_search_keeps_five_without_a_length_penalty_unless_asked_otherwise():
    [found] = beam_search(model(end_bias=1.0), ids(1, 4))
    assert len(found) == 5 and all(h.score == h.log_probability for h in found)
    with pytest.raises(FrozenInstanceError):
        found[0].score = 0.0


@pytest.mark.parametrize("penalty", [-10.0, 10.0])
def test_penalties_up_to_ten_are_served(penalty):
    (found,) = beam_search(model(), ids(1, 3), length_penalty=penalty, max_steps=3)
    assert all(h.score == pytest.approx(h.log_probability / len(h.tokens) ** penalty) for h in found)


def test_beam_search_keeps_no_graph_and_gives_the_grad_mode_back():
    made, modes = model(), []
    for stack in (made.encoder, made.decoder):
        stack.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    beam_search(made, ids(2, 4), width=2, max_steps=2)
    assert modes == [False] * 3 and torch.is_grad_enabled()    # the source once, the tokens twice


def test_a_cache_that_is_given_is_the_one_that_is_filled():
    made, source, cache = model(), ids(2, 3), Cache()
    found = beam_search(made, source, width=3, max_steps=4, cache=cache)
    assert found == beam_search(made, source, width=3, max_steps=4)
    assert cache.length and len(cache.self_kv[0][0]) == 6
    with pytest.raises(ValueError, match="of another decode; make a new one"):
        beam_search(made, source, width=3, cache=cache)


def test_what_changes_the_search_is_named():
    with pytest.raises(TypeError):
        beam_search(model(), ids(1, 3), None, 5)
    assert len(beam_search(model=model(), source=ids(1, 3), source_mask=None, width=2, max_steps=2)[0]) == 2


some_scores = st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0, float("-inf"), float("nan")]), min_size=8, max_size=8)


@given(st.lists(some_scores, min_size=1, max_size=3), st.integers(1, 8))
def test_the_highest_are_those_of_a_whole_stable_sort(rows, k):
    scores = torch.tensor(rows)
    best, place = highest(scores, k)
    assert torch.equal(place, scores.argsort(dim=-1, descending=True, stable=True)[:, :k])
    assert torch.equal(best.nan_to_num(9.0), scores.gather(1, place).nan_to_num(9.0))


@pytest.mark.parametrize("width", [1, 4, 20])
def test_a_search_keeps_width_rows_for_each_source_and_no_more(width):
    made, source, cache = model(end_bias=-1e9), ids(3, 5), Cache()
    beam_search(made, source, mask(5, 3, 4), width=width, max_steps=6, cache=cache)
    layers, d_model, number = 2, 8, 8    # bytes of a float64
    assert cache.nbytes == 2 * layers * (3 * width) * (5 + 6) * d_model * number    # the source and the tokens read
