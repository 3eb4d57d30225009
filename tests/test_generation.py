"""The loop says one token a pass, stops at the end symbol or the limit, and refuses what it cannot serve."""

import re
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import (
    assert_near,
    config,
    few,
    ids,
    lengths,
    mask,
    model,
    noise,
    passes,
    seeded,
    seeds,
    shapes,
    token_scores,
    whole,
)
from torch.testing import assert_close

from annotated_decoder.caching import Cache
from annotated_decoder.encoder_outputs import END, PAD, START, pad
from annotated_decoder.fast_decoding import StaticCache, fast
from annotated_decoder.generation import EncoderDecoder, Request, Rows, generate, generate_steps, greedy, rows_named
from annotated_decoder.pretrained.rules import pooled_beam_search
from annotated_decoder.strategies import beam_search, sampler

caches = st.sampled_from([lambda: None, Cache])


def until_end(row):
    row = row.tolist()
    return row[: row.index(END) + 1] if END in row else row


@few
@given(seeds, shapes, lengths, caches)
def test_a_batch_is_its_rows_one_by_one(seed, shape, sources, make_cache):
    made, real = model(seed, end_bias=1.0, **shape), mask(*sources, width=6)
    source = ids(*real.shape, seed)
    together = generate(made, source, real, cache=make_cache())
    for row, length in enumerate(sources):
        alone = generate(made, source[row : row + 1, :length], cache=make_cache())[0]
        assert until_end(together[row]) == alone.tolist()


@few
@given(seeds, shapes, lengths, caches)
def test_step_by_step_is_teacher_forcing_on_its_own_output(seed, shape, sources, make_cache):
    made, real = model(seed, end_bias=1.0, **shape), mask(*sources)
    source = ids(*real.shape, seed)
    found = list(generate_steps(made, source, real, cache=make_cache()))
    tokens = torch.stack([step.tokens for step in found], 1)
    fed = torch.cat([torch.full((len(sources), 1), START), tokens[:, :-1]], 1)
    for step in found:
        assert_near(step.logits, made(source, fed, real)[:, step.position])


@given(seeds, shapes, lengths, caches)
def test_a_finished_row_is_padded_and_the_loop_ends_with_the_last(seed, shape, sources, make_cache):
    made, real = model(seed, end_bias=2.0, **shape), mask(*sources)
    found = list(generate_steps(made, ids(*real.shape, seed), real, cache=make_cache()))
    tokens = torch.stack([step.tokens for step in found], 1)
    assert [step.position for step in found] == list(range(len(found)))
    assert all(not step.finished.all() for step in found[:-1])
    assert found[-1].finished.all() or len(found) == 12
    for row, finished in zip(tokens, torch.stack([step.finished for step in found], 1), strict=True):
        said = len(until_end(row))
        assert torch.all(row[said:] == PAD)
        assert finished.tolist() == [i >= said - 1 and END in row for i in range(len(row))]


@pytest.mark.parametrize("max_steps", [None, 1, 5, 12])
def test_without_an_end_symbol_the_limit_ends_it(max_steps):
    assert generate(model(end_bias=-1e9), ids(2, 4), max_steps=max_steps).shape == (2, max_steps or 12)


def test_an_untrained_tied_model_repeats_its_input():
    torch.manual_seed(0)
    made = EncoderDecoder.of(config(d_model=64, n_heads=4), config(d_model=64, n_heads=4), tied=True).eval()
    assert torch.all(generate(made, ids(3, 4)) == START)


def test_each_next_is_one_pass_and_the_source_is_read_once():
    made = model(end_bias=-1e9)
    read, passed = passes(made.encoder), passes(made.decoder)
    loop = generate_steps(made, ids(2, 4))
    assert not passed
    for n in range(1, 5):
        next(loop)
        assert passed == [(2, i) for i in range(1, n + 1)]
        assert read == [(2, 4)]


def test_with_a_cache_only_the_newest_token_is_computed():
    made = model(end_bias=-1e9)
    passed = passes(made.decoder)
    generate(made, ids(2, 4), cache=Cache())
    assert passed == [(2, 1)] * 12


@given(seeds, shapes, caches)
def test_the_chosen_token_is_the_one_fed_back(seed, shape, make_cache):
    made, source = model(seed, end_bias=100.0, **shape), ids(2, 4, seed)    # the end symbol is the last to be chosen
    loop = generate_steps(made, source, choose=lambda logits: logits.argmin(-1), max_steps=4, cache=make_cache())
    found = list(loop)
    fed = torch.stack([torch.full((2,), START), *(step.tokens for step in found[:-1])], 1)
    assert_near(found[3].logits, made(source, fed)[:, 3])
    assert all(torch.equal(step.tokens, step.logits.argmin(-1)) for step in found)


def test_a_step_is_a_frozen_record_with_probabilities():
    step = next(generate_steps(model(), ids(2, 4)))
    assert_close(step.probabilities, step.logits.softmax(-1))
    with pytest.raises(FrozenInstanceError):
        step.position = 3


@few
@given(seeds, shapes, lengths, caches)
def test_a_step_knows_the_log_probability_of_its_tokens(seed, shape, sources, make_cache):
    made, real = model(seed, end_bias=2.0, **shape), mask(*sources)
    source = ids(*real.shape, seed)
    found = list(generate_steps(made, source, real, cache=make_cache()))
    tokens, log_p = (torch.stack(x, 1) for x in zip(*((s.tokens, s.log_probability) for s in found), strict=True))
    assert log_p.dtype == torch.float64
    for row, total in enumerate(log_p.sum(1).tolist()):
        said = until_end(tokens[row])
        [each] = token_scores(made, source[row : row + 1, : sources[row]], [said])
        assert total == pytest.approx(sum(each), rel=1e-4)
        assert log_p[row, len(said) :].tolist() == [0.0] * (len(found) - len(said))


def test_a_row_that_has_ended_pays_nothing():
    found = list(generate_steps(model(3, end_bias=1.0), ids(32, 4)))
    log_p, going = (torch.stack(x, 1) for x in zip(*((s.log_probability, s.going) for s in found), strict=True))
    assert going.any() and not going.all()
    assert torch.all(log_p[~going] == 0) and torch.all(log_p[going] < 0)


def test_what_cannot_be_asked_is_no_request():
    with pytest.raises(TypeError, match="max_stps"):
        generate(model(), ids(1, 3), max_stps=3)


def test_the_loop_keeps_no_graph_and_gives_the_grad_mode_back():
    made, modes = model(), []
    for stack in (made.encoder, made.decoder):
        stack.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    for step in generate_steps(made, ids(2, 4), max_steps=2):
        assert torch.is_grad_enabled()
        assert not step.logits.requires_grad
    assert modes == [False] * 3    # the source once, the tokens twice


def test_greedy_takes_the_lowest_of_equals():
    assert greedy(torch.tensor([[1.0, 4.0, 4.0], [2.0, 2.0, 2.0]])).tolist() == [1, 0]


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)"):
        generate(model().train(), ids(1, 3))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=5).filter(lambda sources: 0 in sources))
def test_a_source_of_padding_only_is_refused_by_its_row(sources):
    rows = [row for row, length in enumerate(sources) if not length]
    for serve in (generate, beam_search):
        with pytest.raises(ValueError, match=re.escape(f"rows {rows} are fully masked") + ".*leave them out"):
            serve(model(), ids(len(sources), 3), mask(*sources, width=3))


def test_a_used_cache_is_refused():
    used = Cache()
    found = generate(model(), ids(1, 3), cache=used)
    with pytest.raises(ValueError, match=f"cache has {found.shape[1]} tokens of another decode; make a new one"):
        generate(model(), ids(1, 3), cache=used)


@pytest.mark.parametrize("max_steps", [-1, 0, 13])
def test_steps_beyond_the_positions_are_refused(max_steps):
    with pytest.raises(ValueError, match=f"max_steps is {max_steps};.*1 to 12"):
        generate(model(), ids(1, 3), max_steps=max_steps)


def test_stacks_of_unequal_width_are_refused():
    with pytest.raises(ValueError, match="encoder is 8 wide, the decoder 16; make them equal"):
        EncoderDecoder.of(config(), config(d_model=16))


def test_a_source_may_hold_padding_and_the_target_embedding_is_tied_unless_asked_otherwise():
    made = seeded(lambda: EncoderDecoder.of(config(), config()))
    assert made.projection.weight is made.decoder.embedding.tokens.weight
    padded, real = pad([[3, 4, 5], [6]])
    assert PAD in padded and generate(made, padded, real).shape[0] == 2


@given(seeds, shapes, lengths, caches, st.integers(1, 6))
def test_a_prompt_of_an_output_is_continued_as_it_was(seed, shape, sources, make_cache, read):
    made, real = model(seed, end_bias=-1e9, **shape), mask(*sources)
    source = ids(*real.shape, seed)
    start = torch.full((len(sources), 1), START)
    written = generate(made, source, real, cache=make_cache())
    prompt = torch.cat([start, written], 1)[:, :read]
    rest = generate(made, source, real, cache=make_cache(), prompt=prompt)
    assert torch.equal(rest, written[:, read - 1 :])    # to the last position
    assert torch.equal(generate(made, source, real, prompt=start), written)


@few
@given(seeds, shapes, lengths, caches)
def test_with_a_prompt_step_by_step_is_teacher_forcing(seed, shape, sources, make_cache):
    made, real = model(seed, end_bias=1.0, **shape), mask(*sources)
    source, prompt = ids(*real.shape, seed), ids(len(sources), 4, seed)
    found = list(generate_steps(made, source, real, cache=make_cache(), prompt=prompt))
    fed = torch.cat([prompt, *(step.tokens[:, None] for step in found[:-1])], 1)
    for step in found:
        assert_near(step.logits, made(source, fed, real)[:, 3 + step.position])


def test_with_a_cache_a_prompt_is_read_in_one_pass():
    made = model(end_bias=-1e9)
    passed = passes(made.decoder)
    generate(made, ids(2, 4), cache=Cache(), prompt=torch.tensor([[START, 5, 7], [START, 4, 4]]), max_steps=4)
    assert passed == [(2, 3), (2, 1), (2, 1), (2, 1)]


@pytest.mark.parametrize("read", [1, 5, 12])
def test_the_length_of_a_prompt_counts_against_the_positions(read):
    prompt = torch.full((1, read), START)
    assert generate(model(end_bias=-1e9), ids(1, 3), prompt=prompt).shape == (1, 13 - read)
    with pytest.raises(ValueError, match=f"max_steps is {14 - read}; after a prompt of {read} there.*1 to {13 - read}"):
        generate(model(), ids(1, 3), prompt=prompt, max_steps=14 - read)


@given(seeds, shapes, lengths, caches)
def test_a_constraint_sees_what_was_read_and_the_step_keeps_the_models_logits(seed, shape, sources, make_cache):
    made, real = model(seed, end_bias=1.0, **shape), mask(*sources)
    source, seen = ids(*real.shape, seed), []

    def no_seven_twice(logits, tokens):
        seen.append(tokens)
        return logits.index_fill(1, torch.tensor([7]), -torch.inf)

    prompt = torch.tensor([[START, 7]]).expand(len(sources), -1)
    options = dict(cache=make_cache(), prompt=prompt, max_steps=5, constrain=no_seven_twice)
    found = list(generate_steps(made, source, real, **options))
    whole = torch.cat([prompt, *(step.tokens[:, None] for step in found)], 1)
    assert [tokens.tolist() for tokens in seen] == [whole[:, : i + 2].tolist() for i in range(len(found))]
    assert not (whole[:, 2:] == 7).any()
    for step in found:
        assert_near(step.logits, made(source, whole[:, :-1], real)[:, 1 + step.position])


def test_a_row_that_has_ended_may_be_forbidden_all_while_others_draw():
    made, source = model(), ids(2, 4)

    def first_row_ends(logits, tokens):
        allowed = logits.index_fill(1, torch.tensor([END]), -torch.inf)
        allowed[0] = -torch.inf
        if tokens.shape[1] == 1:
            allowed[0, END] = 0.0
        return allowed

    draw = sampler(generator=torch.Generator().manual_seed(0))
    found = generate(made, source, choose=draw, constrain=first_row_ends, max_steps=5)
    assert found[0].tolist() == [END, PAD, PAD, PAD, PAD] and (found[1] != END).all()


def test_a_row_without_a_token_is_refused_by_its_row_and_a_finished_one_needs_none():
    def nothing_after(n, rows):
        def constrain(logits, tokens):
            return logits.index_fill(0, torch.tensor(rows), -torch.inf) if tokens.shape[1] > n else logits

        return constrain

    made, source = model(end_bias=1e3), ids(3, 4)    # the end symbol at once
    assert generate(made, source, constrain=nothing_after(1, [0, 1, 2])).tolist() == [[END]] * 3
    with pytest.raises(ValueError, match=r"rows \[0, 2\] have no token left to choose; forbid fewer"):
        generate(made, source, constrain=nothing_after(0, [0, 2]))

    def the_first_ends_and_then_has_nothing(logits, tokens):
        forbidden = logits.index_fill(1, torch.tensor([END]), -torch.inf)
        forbidden[0] = logits[0] if tokens.shape[1] == 1 else -torch.inf
        return forbidden

    rows = generate(made, source, constrain=the_first_ends_and_then_has_nothing, max_steps=3).tolist()
    assert rows[0] == [END, PAD, PAD] and END not in rows[1] + rows[2]


class Sound(torch.nn.Module):
    "An embedding of features, of whose kind `check` lets finite ones through."

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(5, 8)
        self.asked = []

    def forward(self, source):
        return self.linear(source)

    def check(self, source, source_mask):
        self.asked.append(source_mask)
        if not source.isfinite().all():
            raise ValueError("the sound has numbers that are not finite; cut them out")


def test_another_kind_of_source_checks_itself_and_makes_the_memory():
    sound, features = Sound(), noise(2, 4, 5)
    made = seeded(lambda: whole(embedding=sound))
    assert made.encoder.embedding is sound
    assert made.encode(features).shape == (2, 4, 8)
    tokens, real = ids(2, 3), mask(4, 2)
    assert_close(made(features, tokens, real)[1:], made(features[1:, :2], tokens[1:]))
    assert Rows(made, features, real, Request()).limit == 12 and sound.asked == [real]
    with pytest.raises(ValueError, match="not finite; cut them out"):
        Rows(made, features / 0, None, Request())


def test_a_module_without_a_check_is_taken_at_its_word():
    made = seeded(lambda: whole(embedding=torch.nn.Linear(5, 8)))
    assert generate(made, noise(2, 4, 5), max_steps=1).shape == (2, 1)
    with pytest.raises(ValueError, match="give token ids"):
        generate(model(), noise(2, 4, 5))


NAN, INF = float("nan"), float("inf")


def draw(logits):
    return sampler(generator=torch.Generator().manual_seed(0))(logits)


DECODERS = {
    "greedily": generate,
    "with a cache": lambda *args, **options: generate(*args, cache=Cache(), **options),
    "in a room": lambda *args, **options: generate(*args, cache=StaticCache(12), **options),
    "fast": lambda made, *args, **options: generate(fast(made), *args, cache=Cache(), **options),
    "by drawing": lambda *args, **options: generate(*args, choose=draw, **options),
    "with a beam": lambda *args, **options: beam_search(*args, width=3, **options),
    "with a pool": lambda *args, **options: pooled_beam_search(*args, width=3, **options),
}
decoders = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
NUMBERS = {NAN: "nan", INF: "inf", -INF: "-inf"}


def poisoned_weight(x):
    "Every logit is x."
    made = model()
    with torch.no_grad():
        made.projection.bias.fill_(x)
    return made


def poisoned_token(x):
    "One logit of all is x."
    made = model(end_bias=-1e9)
    with torch.no_grad():
        made.projection.bias[5] = x
    return made


class Late(EncoderDecoder):
    "The second source's logits hold `x` from the fourth token on."

    def decode(self, tokens, memory, memory_mask=None, cache=None):
        logits, n = super().decode(tokens, memory, memory_mask, cache), len(memory) // 2
        if (tokens.shape[1] if cache is None else cache.length) > 3:
            logits[n:, :, 4] = self.x
        return logits


@decoders
@pytest.mark.parametrize("x", NUMBERS)
def test_weights_that_give_no_number_end_the_decode(decode, x):
    with pytest.raises(ValueError, match=r"step 1: rows \[0, 1\] have NaN, \+∞ or only −∞ for logits; look for them"):
        decode(poisoned_weight(x), ids(2, 4))


def test_of_many_wrong_rows_the_first_are_named_and_the_others_counted():
    made, source = poisoned_weight(NAN), ids(256, 4)
    with pytest.raises(ValueError, match=r"step 1: rows \[0, 1, 2, 3, 4, 5, 6, 7\] and 248 more have NaN"):
        generate(made, source)
    assert rows_named([*range(8)]) == "rows [0, 1, 2, 3, 4, 5, 6, 7]" and rows_named([3]) == "rows [3]"
    nothing = torch.zeros(256, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"source rows \[0, 1, 2, 3, 4, 5, 6, 7\] and 248 more are fully masked"):
        generate(made, source, nothing)


@decoders
@pytest.mark.parametrize("x", [NAN, INF])
def test_one_logit_that_is_no_number_ends_the_decode(decode, x):
    with pytest.raises(ValueError, match=r"step 1: rows \[0\] have NaN"):
        decode(poisoned_token(x), ids(1, 4))


@decoders
def test_a_logit_of_minus_infinity_forbids_a_token(decode):
    found = decode(poisoned_token(-INF), ids(2, 4), max_steps=4)
    said = found if isinstance(found, torch.Tensor) else [h.tokens for row in found for h in row]
    assert len(said) and all(5 not in list(map(int, row)) for row in said)


@decoders
@pytest.mark.parametrize("x", [NAN, INF])
def test_the_row_and_the_step_are_named(decode, x):
    made = model(kind=Late, end_bias=-1e9)
    made.x = x
    with pytest.raises(ValueError, match=r"step 4: rows \[1\] have NaN"):
        decode(made, ids(2, 4))


@decoders
def test_a_memory_that_is_no_number_ends_the_decode_and_padding_may_be_any(decode):
    made, source, real = model(), ids(2, 4), mask(4, 2)

    def spoil(columns):
        def hook(module, inputs, memory):
            memory[1, columns] = NAN

        return made.encoder.register_forward_hook(hook)

    clean = decode(made, source, real)
    listener = spoil(slice(2, None))    # the padded ones
    found = decode(made, source, real)
    assert torch.equal(found, clean) if isinstance(found, torch.Tensor) else found == clean
    listener.remove()
    spoil(slice(0, 1))
    with pytest.raises(ValueError, match=r"step 1: rows \[1\] have NaN"):
        decode(made, source, real)


@decoders
@pytest.mark.parametrize("x", [NAN, INF])
def test_a_constraint_that_gives_no_number_is_refused(decode, x):
    def constrain(scores, tokens):
        return scores.index_fill(1, torch.tensor([6]), x) if tokens.shape[1] == 3 else scores

    with pytest.raises(ValueError, match=r"step 3: rows \[0, 1\] get NaN or \+∞ from constrain; give finite scores"):
        decode(model(end_bias=-1e9), ids(2, 4), constrain=constrain)


@decoders
def test_a_constraint_that_forbids_all_is_named_with_its_step(decode):
    def constrain(scores, tokens):
        return scores.fill_(-INF) if tokens.shape[1] == 3 else scores

    with pytest.raises(ValueError, match=r"step 3: rows \[0, 1\] have no token left to choose; forbid fewer"):
        decode(model(end_bias=-1e9), ids(2, 4), constrain=constrain)


OTHERS = {
    "another width": (lambda scores: scores[:, 1:], r"torch.float64 of shape \(\d, 10\) on cpu; give torch.float64 of"),
    "other rows": (lambda scores: scores[:1], r"torch.float64 of shape \(1, 11\) on cpu; give torch.float64 of shape"),
    "another precision": (lambda scores: scores.float(), "torch.float32 of shape .* on cpu; give torch.float64"),
    "another device": (lambda scores: scores.to("meta"), "torch.float64 of shape .* on meta; give torch.float64"),
    "a mask": (lambda scores: scores > 0, "torch.bool of shape .* on cpu; give torch.float64"),
    "nothing": (lambda scores: None, "None; give torch.float64"),
}


@decoders
@pytest.mark.parametrize("change, message", OTHERS.values(), ids=OTHERS)
def test_a_constraint_gives_what_it_got(decode, change, message):
    with pytest.raises(ValueError, match=f"constrain gives {message}"):
        decode(model(), ids(2, 4), constrain=lambda scores, tokens: change(scores))


@pytest.mark.parametrize("decode", [d for name, d in DECODERS.items() if name != "with a pool"])    # which never ends
def test_a_row_that_has_ended_may_have_any_logits(decode):
    made = model()
    with torch.no_grad():
        made.decoder.embedding.tokens.weight[PAD] = NAN    # which is read behind an end alone

    def constrain(scores, tokens):
        allowed = scores.index_fill(1, torch.tensor([PAD, END]), -INF)
        if tokens.shape[1] == 2:
            allowed[: len(scores) // 2] = -INF
            allowed[: len(scores) // 2, END] = 0.0
        return allowed

    found = decode(made, ids(2, 4), constrain=constrain, max_steps=5)
    first, second = found.tolist() if isinstance(found, torch.Tensor) else (row[0].tokens for row in found)
    assert END == first[1] and len(second) == 5 and END not in second


@decoders
def test_without_a_mask_padding_is_a_token_like_others(decode):
    made, source = model(), torch.tensor([[4, 5, PAD, PAD], [6, 7, 8, 9]])
    found, told = decode(made, source), decode(made, source, mask(4, 4))
    assert torch.equal(found, told) if isinstance(found, torch.Tensor) else found == told
    logits = [next(generate_steps(made, source, real)).logits[0] for real in (None, mask(2, 4))]
    assert not torch.allclose(*logits)
