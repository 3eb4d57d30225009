"""Constraints forbid and force what they say and change nothing else; the pool holds the best that is finished."""

import math

import jaxtyping
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

from annotated_decoder.caching import Cache
from annotated_decoder.encoder_outputs import END, START
from annotated_decoder.generation import EncoderDecoder, generate
from annotated_decoder.pretrained.rules import Constraints, Pool, pooled_beam_search
from annotated_decoder.strategies import beam_search

# Prompts and constraints

tokens_of_five = st.integers(0, 4)
rules = st.builds(
    dict,
    suppressed=st.lists(tokens_of_five, max_size=2).map(tuple),
    suppressed_first=st.lists(tokens_of_five, max_size=3).map(tuple),
    forced_first=st.none() | tokens_of_five,
    forced_last=st.none() | tokens_of_five,
    min_length=st.integers(0, 5),
    no_repeat_ngram=st.integers(0, 3),
)
prompts = st.lists(tokens_of_five, max_size=2).map(lambda others: (START, *others))
searches = pytest.mark.parametrize("search", [beam_search, pooled_beam_search])


def forced(tokens, rules, limit):
    "The token that must follow, if one must: the rules once more, a token at a time."
    if len(tokens) == limit - 1 and rules["forced_last"] is not None:
        return rules["forced_last"]
    return rules["forced_first"] if len(tokens) == 1 else None


def may_follow(token, tokens, rules, limit, read):
    if forced(tokens, rules, limit) is not None:
        return token == forced(tokens, rules, limit)
    n, longer = rules["no_repeat_ngram"], [*tokens, token]
    runs = [longer[i : i + n] for i in range(len(longer) - n + 1)] if n else []
    first = read + (read == 1 and rules["forced_first"] is not None)
    return not (
        token in rules["suppressed"]
        or (len(tokens) == first and token in rules["suppressed_first"])
        or (len(tokens) < rules["min_length"] and token == END)
        or (runs and runs[-1] in runs[:-1])
    )


def allowed_sequences(prompt, rules, steps):
    "Each with the places of its forced tokens."
    limit, read = len(prompt) + steps, len(prompt)
    for said in every_sequence(5, steps):
        whole = [*prompt, *said]
        places = range(read, len(whole))
        if all(may_follow(whole[i], whole[:i], rules, limit, read) for i in places):
            yield said, [i - read for i in places if forced(whole[:i], rules, limit) is not None]


@searches
@given(seeds, shapes, rules, prompts, st.integers(1, 3))
def test_a_wide_beam_holds_what_the_rules_allow_and_forced_tokens_cost_nothing(
    search, seed, shape, rules, prompt, steps
):
    made, source = model(seed, vocab_size=5, **shape), ids(1, 3, seed, 5)
    expected = dict(allowed_sequences(prompt, rules, steps))
    constrain = Constraints(**rules, max_length=len(prompt) + steps, prompt_length=len(prompt))
    options = dict(width=sum(4**n for n in range(steps + 1)) + 9, max_steps=steps, length_penalty=0.0)
    options |= dict(prompt=torch.tensor([prompt]), constrain=constrain)
    if not expected:
        with pytest.raises(ValueError, match=r"rows \[0\] have no token left to choose.*; forbid fewer"):
            search(made, source, **options)
        return
    [found] = search(made, source, **options)
    assert {h.tokens for h in found} == expected.keys() and len(found) == len(expected)
    log_p = token_scores(made, source, list(expected), prompt)
    totals = {
        said: sum(p for i, p in enumerate(scores) if i not in free)
        for (said, free), scores in zip(expected.items(), log_p, strict=True)
    }
    tolerance = TOLERANCE[shape["dtype"]]
    assert {h.tokens: h.score for h in found} == pytest.approx(totals, rel=tolerance, abs=tolerance)


@given(seeds, shapes, lengths, rules, st.integers(0, 2), st.sampled_from([EncoderDecoder, Rounded]))
def test_a_beam_of_one_is_greedy_with_a_prompt_and_constraints_too(seed, shape, sources, rules, more, kind):
    made, real = model(seed, end_bias=1.0, kind=kind, **shape), mask(*sources)
    source, prompt = ids(*real.shape, seed), ids(len(sources), 1 + more, seed)
    prompt[:, 0] = START
    constrain = Constraints(**rules, max_length=1 + more + 6, prompt_length=1 + more)
    options = dict(prompt=prompt, constrain=constrain, max_steps=6)    # so few that the rules leave a token
    rows = generate(made, source, real, cache=Cache(), **options).tolist()
    plain = beam_search(made, source, real, width=1, **options)
    pooled = pooled_beam_search(made, source, real, width=1, early_stopping=True, **options)
    for row, [best], [first] in zip(rows, plain, pooled, strict=True):
        assert best.tokens == first.tokens == tuple(row[: row.index(END) + 1] if END in row else row)


@searches
@few
@given(seeds, shapes, lengths, rules)
def test_a_padded_batch_is_its_sources_one_by_one_under_constraints(search, seed, shape, sources, rules):
    made, real = model(seed, end_bias=1.0, **shape), mask(*sources, width=6)
    source, prompt = ids(*real.shape, seed), torch.full((len(sources), 2), START)
    options = dict(width=3, length_penalty=0.5, constrain=Constraints(**rules, max_length=10, prompt_length=2))
    together = search(made, source, real, prompt=prompt, max_steps=8, **options)
    for row, length in enumerate(sources):
        [alone] = search(made, source[row : row + 1, :length], prompt=prompt[:1], max_steps=8, **options)
        assert [h.tokens for h in together[row]] == [h.tokens for h in alone]


@searches
def test_a_prompt_is_read_in_one_pass_and_left_out_of_the_answer(search):
    made = model(end_bias=-1e9)
    seen, prompt = passes(made.decoder), torch.tensor([[START, 5, 7], [START, 4, 4]])
    found = search(made, ids(2, 3), width=2, prompt=prompt, max_steps=4)
    assert seen == [(4, 3)] + [(4, 1)] * 3
    assert {len(h.tokens) for row in found for h in row} == {4}
    assert len(search(made, ids(2, 3), width=1, prompt=prompt)[0][0].tokens) == 12 - 3 + 1


@searches
def test_a_dead_end_is_left_out_while_another_way_goes_on(search):
    made = model(end_bias=-1e9)

    def not_after_five(log_p, tokens):
        return log_p.masked_fill(tokens[:, -1:] == 5, -torch.inf)

    def not_for_the_second_source(log_p, tokens):
        return log_p.index_fill(0, torch.tensor([2, 3]), -torch.inf)

    [found] = search(made, ids(1, 3), width=VOCAB, max_steps=3, constrain=not_after_five)
    assert len(found) == VOCAB and all(5 not in h.tokens[:-1] for h in found)
    with pytest.raises(ValueError, match=r"rows \[1\] have no token left"):
        search(made, ids(3, 3), width=2, max_steps=3, constrain=not_for_the_second_source)


IMPOSSIBLE = {    # the setting: what the message says
    "a token below 0": (dict(suppressed=(3, -1)), r"suppressed is \(3, -1\); token ids are whole numbers from 0 on"),
    "a token of a fraction": (dict(suppressed_first=(0.5,)), r"suppressed_first is \(0.5,\); token ids"),
    "a symbol": (dict(forced_first="a"), "forced_first is 'a'; token ids"),
    "an end below 0": (dict(end_id=-2), "end_id is -2; token ids"),
    "a length below 0": (dict(min_length=-1), "min_length is -1; it must be a whole number of at least 0"),
    "half a run": (dict(no_repeat_ngram=1.5), "no_repeat_ngram is 1.5; it must be a whole number of at least 0"),
    "no prompt": (dict(prompt_length=0), "prompt_length is 0; it must be a whole number of at least 1"),
    "last, and not where": (dict(forced_last=2), "forced_last is 2, and max_length is None; say at which length"),
    "an end too many": (dict(other_ends=(4, -1)), r"other_ends is \(4, -1\); token ids"),
    "a word below 0": (dict(banned_words=((3, -1),)), r"banned_words is \(\(3, -1\),\); token ids"),
    "an empty word": (dict(banned_words=((3,), ())), r"banned_words is .*; leave the empty word out"),
    "no penalty": (dict(repetition_penalty=0.0), "repetition_penalty is 0.0; it must be above 0 and finite"),
    "a penalty that is no number": (dict(repetition_penalty=float("nan")), "repetition_penalty is nan; it must be"),
    "no room": (dict(max_length=3, prompt_length=3), "max_length is 3; it counts the prompt too.*above its 3"),
    "half a length": (dict(max_length=7.5), "max_length is 7.5"),
}


@pytest.mark.parametrize("settings, message", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_constraints_that_cannot_work_are_refused(settings, message):
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            Constraints(**settings)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


LISTS = dict.fromkeys(["suppressed", "suppressed_first", "other_ends"], (VOCAB,)) | {"banned_words": ((4, VOCAB),)}
SINGLE = dict.fromkeys(["forced_first", "forced_last", "end_id"], VOCAB)


@pytest.mark.parametrize("setting, token", (LISTS | SINGLE | {"forced_last": (4, VOCAB)}).items())
def test_a_constraint_on_a_token_outside_the_vocabulary_is_refused(setting, token):
    with pytest.raises(ValueError, match=f"{setting} has token {VOCAB}; the vocabulary has 0 to {VOCAB - 1}"):
        generate(model(), ids(1, 3), constrain=Constraints(**{setting: token}, max_length=12))


@given(seeds, dtypes, st.integers(1, 6))
def test_constraints_that_forbid_nothing_change_nothing(seed, dtype, length):
    logits = noise(3, VOCAB, seed=seed, dtype=dtype)
    assert torch.equal(Constraints()(logits, ids(3, length, seed)), logits)


def test_a_prompt_of_short_integers_is_read_by_every_rule():
    rules = Constraints(repetition_penalty=2.0, no_repeat_ngram=2, banned_words=((3, 4),), other_ends=(5,))
    logits, tokens = noise(2, VOCAB), ids(2, 5)
    assert torch.equal(rules(logits, tokens.int()), rules(logits, tokens))


@searches
def test_every_end_ends_a_hypothesis_and_only_the_pool_leaves_the_other_end_last(search):
    made, others = model(end_bias=-2.0), (5, 6, 7)
    options = dict(other_ends=others) if search is pooled_beam_search else {}
    found = search(made, ids(4, 3), width=3, constrain=Constraints(other_ends=others), length_penalty=0.0, **options)
    plain = pooled_beam_search(made, ids(4, 3), width=3, length_penalty=0.0, other_ends=others)
    for row, other in zip(found, plain, strict=True):
        said = [tuple(t for t in h.tokens if t != END) for h in row]
        assert said[0] == tuple(t for t in other[0].tokens if t != END)    # an end costs what the model says, once
        assert all(t not in others for tokens in said for t in tokens[:-1])
        assert row[0].log_probability == pytest.approx(other[0].log_probability)
    assert {row[0].tokens[-1] for row in plain} & {*others}


# The pool of the finished

CLOSED = [    # early_stopping, length penalty, the best sum of what goes on after 4 tokens: is a pool of two closed?
    (True, 1.0, -0.1, True),
    (False, 1.0, -1.9, False),    # both scores in the pool are −0.5
    (False, 1.0, -2.0, True),
    ("never", 1.0, -4.9, False),    # the limit is 10
    ("never", 1.0, -5.0, True),
    (False, 0.0, -1.9, False),    # the worst is −2
    ("never", 0.0, -2.0, True),
    (False, -1.0, -1.9, False),    # the worst is −8
    ("never", -1.0, -1.9, False),
    ("never", -1.0, -2.0, True),
]


@pytest.mark.parametrize("early_stopping, length_penalty, best, closed", CLOSED)
def test_a_full_pool_closes_when_nothing_better_is_expected(early_stopping, length_penalty, best, closed):
    pool = Pool(2, length_penalty, early_stopping, limit=10)
    pool.offer([5, END], -1.0)
    pool.close(-100.0, 3)
    assert not pool.closed    # it has a place
    pool.offer([6, 7, 8, END], -2.0)
    pool.close(best, 4)
    assert pool.closed == closed
    pool.close(0.0, 5)
    assert pool.closed == (closed or early_stopping is True)    # once closed, always closed
    pool.offer([9, END], -0.2)
    assert (len(pool.hypotheses), pool.hypotheses[0].log_probability) == (2, -1.0 if closed else -0.2)

@few
@given(seeds, shapes, st.integers(1, 3), st.integers(1, 3), st.sampled_from([0.0, 0.7, 1.0]))
def test_a_pool_wide_enough_is_brute_force(seed, shape, length, limit, length_penalty):
    made, source = model(seed, vocab_size=5, **shape), ids(1, length, seed, 5)
    sequences = list(every_sequence(5, limit))
    options = dict(width=len(sequences) + 15, length_penalty=length_penalty, max_steps=limit)
    [found] = pooled_beam_search(made, source, **options)
    totals = zip(sequences, [sum(p) for p in token_scores(made, source, sequences)], strict=True)
    scores = {s: total / len(s) ** length_penalty for s, total in totals}
    assert {h.tokens: h.score for h in found} == pytest.approx(scores, rel=TOLERANCE[shape["dtype"]])
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@given(seeds, shapes, lengths, st.integers(1, 5), st.sampled_from([False, "never"]))
def test_without_a_penalty_the_best_is_the_best_of_plain_beam_search(seed, shape, sources, width, early_stopping):
    made, real = model(seed, end_bias=1.5, **shape), mask(*sources)
    source = ids(*real.shape, seed)
    plain = beam_search(made, source, real, width=width)
    pooled = pooled_beam_search(made, source, real, width=width, length_penalty=0.0, early_stopping=early_stopping)
    assert [row[0].tokens for row in plain] == [row[0].tokens for row in pooled]


@few
@given(seeds, shapes, st.integers(1, 4), st.sampled_from([-1.0, 0.0, 0.7, 2.0]))
def test_a_pool_that_closes_later_is_no_worse(seed, shape, width, length_penalty):
    made, source = model(seed, end_bias=1.5, **shape), ids(3, 4, seed)
    seen, scores, read = passes(made.decoder), [], []
    for early_stopping in (True, False, "never"):
        options = dict(width=width, length_penalty=length_penalty, early_stopping=early_stopping)
        found = pooled_beam_search(made, source, **options)
        assert all(len(row) == len({h.tokens for h in row}) == width for row in found)
        scores.append([h.score for row in found for h in row])
        read.append(len(seen))
        seen.clear()
    assert read == sorted(read)
    assert all(a <= b <= c for a, b, c in zip(*scores, strict=True))


def test_a_pool_has_five_places_a_mean_per_token_and_the_present_length_unless_asked_otherwise():
    made, source = model(end_bias=1.0), ids(2, 4)
    asked = pooled_beam_search(made, source, None, width=5, length_penalty=1.0, early_stopping=False)
    assert pooled_beam_search(made, source) == asked
    assert all(h.score == h.log_probability / len(h.tokens) for row in asked for h in row)


# The search that the chapter follows with a pencil: a (3), b (4) and the end, by the last word alone.
AFTER = {START: (0.5, 0.4, 0.1), 3: (0.4, 0.25, 0.35), 4: (0.05, 0.05, 0.9)}


def by_the_last_word(logits, tokens):
    shares = torch.full_like(logits, -torch.inf)
    for row, last in enumerate(tokens[:, -1].tolist()):
        shares[row, [3, 4, END]] = torch.tensor(AFTER.get(last, (1, 1, 1)), dtype=logits.dtype).log()
    return shares


B, AB = ((4, END), 0.4 * 0.9), ((3, 4, END), 0.5 * 0.25 * 0.9)
AAB, AAAA = ((3, 3, 4, END), 0.5 * 0.4 * 0.25 * 0.9), ((3, 3, 3, 3), 0.5 * 0.4**3)


@pytest.mark.parametrize("penalty, end, best, steps", [
    (0.0, False, [B, AB], 3), (1.0, False, [B, AB], 3), (2.0, False, [AB, B], 3), (1.8, "never", [AAB, AAAA], 4),
])    # fmt: skip
def test_a_search_by_hand_fills_its_pool_as_the_pencil_does(penalty, end, best, steps):
    made = model()
    seen = passes(made.decoder)
    asked = dict(width=2, length_penalty=penalty, early_stopping=end, max_steps=4, constrain=by_the_last_word)
    [found] = pooled_beam_search(made, ids(1, 3), **asked)
    assert [h.tokens for h in found] == [tokens for tokens, _ in best]
    scores = [math.log(p) / len(tokens) ** penalty for tokens, p in best]
    assert [h.score for h in found] == pytest.approx(scores, rel=1e-6)
    assert len(seen) == steps


@given(st.integers(1, 9), st.integers(1, 9), st.floats(-9, -0.1), st.floats(1.05, 9))
def test_two_lengths_tie_at_one_penalty_and_above_it_the_longer_is_ahead(n, more, short, ratio):
    long = short * ratio
    tie = math.log(ratio) / math.log((n + more) / n)
    for shift, first in ((-0.01, n), (0.01, n + more)):
        pool = Pool(2, tie + shift, False, limit=20)
        pool.offer([5] * n, short)
        pool.offer([6] * (n + more), long)
        assert len(pool.hypotheses[0].tokens) == first
    pool = Pool(2, tie, False, limit=20)
    pool.offer([5] * n, short)
    pool.offer([6] * (n + more), long)
    assert pool.hypotheses[0].score == pytest.approx(pool.hypotheses[1].score, rel=1e-6)


@pytest.fixture
def any_number():
    "A penalty may be a whole number, whatever its annotation says to the checks of types."
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("length_penalty", [-10, -1, 0, 1, 3, 10])
@pytest.mark.parametrize("length", [1, 79, 1000])
def test_whole_and_broken_penalties_give_equal_scores(length_penalty, length, any_number):
    pools = [Pool(2, penalty, "never", limit=length + 1) for penalty in (length_penalty, float(length_penalty))]
    for pool in pools:
        pool.offer([5] * length, -1.5)
        pool.offer([6] * length, -2.5)
        pool.close(-2.6, length)
    assert pools[0].hypotheses == pools[1].hypotheses and pools[0].closed == pools[1].closed
    assert pools[0].hypotheses[0].score == pytest.approx(-1.5 / float(length) ** length_penalty)


@pytest.mark.parametrize("length_penalty", [-10, -1, 10])
def test_a_search_with_a_whole_penalty_is_that_with_a_broken_one(length_penalty, any_number):
    made, source = model(end_bias=0.5), ids(3, 4)
    whole = pooled_beam_search(made, source, width=3, length_penalty=length_penalty)
    assert whole == pooled_beam_search(made, source, width=3, length_penalty=float(length_penalty))


@pytest.mark.parametrize("step", [1, 3])
def test_scores_that_are_no_numbers_are_refused_with_row_and_step(step):
    made = model(end_bias=-1e9)

    def poisoned(log_p, tokens):
        bad = torch.zeros(len(tokens), 1, dtype=torch.bool)
        bad[4:] = tokens.shape[1] == step    # the slots of the third source
        return log_p.masked_fill(bad, torch.nan)

    with pytest.raises(ValueError, match=rf"step {step}: rows \[2\] get NaN or \+∞ from constrain"):
        pooled_beam_search(made, ids(3, 3), width=2, constrain=poisoned)
    with torch.no_grad():
        made.projection.weight[5] = torch.nan
    with pytest.raises(ValueError, match=r"step 1: rows \[0, 1, 2\] have NaN"):
        pooled_beam_search(made, ids(3, 3), width=2)


@pytest.mark.parametrize("step", [1, 3])
def test_a_row_without_a_token_left_is_refused_with_its_step(step):
    def stuck(log_p, tokens):
        return log_p.index_fill(0, torch.tensor([2, 3]), -torch.inf) if tokens.shape[1] == step else log_p

    with pytest.raises(ValueError, match=rf"step {step}: rows \[1\] have no token left to choose"):
        pooled_beam_search(model(end_bias=-1e9), ids(3, 3), width=2, constrain=stuck)


def test_a_pool_refuses_what_it_cannot_serve():
    for early_stopping in ("always", 1, None):
        jaxtyping.config.update("jaxtyping_disable", True)
        with pytest.raises(ValueError, match=f"early_stopping is {early_stopping!r}; give False, True or 'never'"):
            pooled_beam_search(model(), ids(1, 3), early_stopping=early_stopping)
        jaxtyping.config.update("jaxtyping_disable", False)
    with pytest.raises(ValueError, match="width is 0"):
        pooled_beam_search(model(), ids(1, 3), width=0)
    with pytest.raises(ValueError, match="length_penalty is 11"):
        pooled_beam_search(model(), ids(1, 3), length_penalty=11.0)
    with pytest.raises(ValueError, match="max_steps is 13"):
        pooled_beam_search(model(), ids(1, 3), max_steps=13)


def test_the_pooled_search_keeps_no_graph_and_gives_the_grad_mode_back():
    made, modes = model(), []
    for stack in (made.encoder, made.decoder):
        stack.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    pooled_beam_search(made, ids(2, 4), width=2, max_steps=2)
    assert modes == [False] * 3 and torch.is_grad_enabled()    # the source once, the tokens twice
