"""What a checkpoint asks of its decoding is done as in Hugging Face transformers, samples and several ends included."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import reference
import torch
from reference import theirs, write
from torch.testing import assert_close
from transformers import GenerationConfig
from transformers.generation.utils import GenerationMixin

from annotated_decoder.decoder import StackConfig
from annotated_decoder.encoder_outputs import pad
from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.pretrained.folder import JsonFile
from annotated_decoder.pretrained.loading import Checkpoint, load_pretrained
from annotated_decoder.pretrained.rules import Sampling
from annotated_decoder.pretrained.settings import read_settings

VOCAB, PAD, START, END = reference.VOCAB, 46, 45, 3
SHAPE = dict(d_model=16, n_heads=2, d_ff=24, n_layers=1, max_len=32, pad_id=PAD, start_id=START, end_id=END)


def read(shape=None, **asked):
    shape = shape or StackConfig(vocab_size=VOCAB, **SHAPE)
    return read_settings(JsonFile(Path("generation_config.json"), asked), shape)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(10)    # some answers end, others reach the limit
    shape = StackConfig(vocab_size=VOCAB, **SHAPE)
    made = EncoderDecoder.of(shape, shape, tied=False).double().eval()
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.add_(torch.randn_like(tensor), alpha=0.6)
    return made


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    "A tiny checkpoint whose answers have many tokens, as ours and as theirs."
    folder = tmp_path_factory.mktemp("bart")
    write(folder, "bart", wild=True)
    model = theirs(folder, "bart")
    model.generation_config = GenerationConfig(pad_token_id=1, decoder_start_token_id=2)    # no wish of its own
    return Checkpoint(folder), load_pretrained(folder, dtype=torch.float64), model


# Scores

SAMPLED = dict(do_sample=True)
GRID = {
    "nothing": {},
    "repetitions": dict(repetition_penalty=1.7),
    "repetitions wanted": dict(repetition_penalty=0.6),
    "words": dict(bad_words_ids=[[7], [8, 9], [9, 8, 9], [END], [6, 6]]),
    "words and ends": dict(bad_words_ids=[[END], [6], [6, 7]], eos_token_id=[END, 6], min_length=4),
    "ends held back": dict(eos_token_id=[END, 6, 9], min_new_tokens=3),
    "two last": dict(forced_eos_token_id=[END, 6], max_length=5),
    "one first": dict(forced_bos_token_id=8, begin_suppress_tokens=[9, 10]),
    "runs": dict(no_repeat_ngram_size=2, repetition_penalty=1.2, suppress_tokens=[11, 12]),
    "the 50 best": SAMPLED,
    "a temperature": SAMPLED | dict(temperature=0.4, top_k=0),
    "the 5 best": SAMPLED | dict(temperature=1.8, top_k=5),
    "the best together": SAMPLED | dict(top_k=0, top_p=0.6),
    "the best together of the best": SAMPLED | dict(top_k=6, top_p=0.7, temperature=2.0),
    "min p": SAMPLED | dict(min_p=0.2, top_k=0),
    "epsilon": SAMPLED | dict(epsilon_cutoff=0.08, top_k=0),
    "epsilon of what is left": SAMPLED | dict(top_k=4, epsilon_cutoff=0.25),
    "epsilon that is none": SAMPLED | dict(epsilon_cutoff=1.0),
    "all": SAMPLED
    | dict(temperature=0.8, top_k=20, top_p=0.9, min_p=0.02, epsilon_cutoff=0.01, repetition_penalty=1.3)
    | dict(bad_words_ids=[[8, 9]], no_repeat_ngram_size=3, eos_token_id=[END, 6], min_length=6),
}


def their_scores(model, logits, tokens, asked):
    given = dict(eos_token_id=END, pad_token_id=PAD, decoder_start_token_id=START, max_length=12) | asked
    config, _ = model._prepare_generation_config(GenerationConfig(**given))
    model._prepare_special_tokens(config, device="cpu")
    config = model._prepare_generated_length(config, False, False, "input_ids", 1, tokens)
    return model._get_logits_processor(config, input_ids_seq_length=1)(tokens, logits)


@pytest.mark.parametrize("renormalized", [False, True])
@pytest.mark.parametrize("asked", GRID.values(), ids=GRID)
def test_the_scores_are_theirs(asked, renormalized, bart):
    asked = asked | dict(renormalize_logits=renormalized)
    settings = read(**dict(eos_token_id=END, max_length=12) | asked)
    for length, seed in product((1, 2, 3, 4, 7), range(4)):
        random = torch.Generator().manual_seed(100 * length + seed)
        tokens = torch.randint(6, 13, (5, length), generator=random)    # few, so that they come again
        tokens[:, 0] = START
        if "eos_token_id" in asked:    # nothing follows an end
            tokens[torch.isin(tokens, torch.tensor(asked["eos_token_id"]))] = 8
        logits = 2 * torch.randn(5, VOCAB, generator=random)
        expected = their_scores(bart[2], logits, tokens, asked)
        assert_close(settings.constrain(logits, tokens), expected, atol=1e-5, rtol=1e-5)


def test_each_of_the_grid_does_something():
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, VOCAB, generator=random)
    for name, asked in GRID.items():
        settings = read(**dict(eos_token_id=END, max_length=12) | asked)
        same = True
        for length in (1, 2, 3, 4):
            tokens = torch.randint(6, 10, (200, length), generator=random)
            tokens[:, 0] = START
            same = same and torch.equal(settings.constrain(logits, tokens), logits)
        assert same == (name in ("nothing", "the 50 best", "epsilon that is none")), name    # fewer than 50 are there


def test_what_is_forbidden_whole_stays_minus_infinity_where_shares_are_given_on():
    settings = read(suppress_tokens=list(range(VOCAB)), renormalize_logits=True)
    assert (settings.constrain(torch.zeros(2, VOCAB), torch.full((2, 1), START)) == -torch.inf).all()


# Ends


def until(ids, ends):
    length = next((n for n, token in enumerate(ids, 1) if token in ends), None)
    return tuple(ids[:length])


def their_sequences(model, source, mask, ends, **asked):
    n = asked.get("num_return_sequences", 1)
    given = dict(input_ids=source, attention_mask=mask.long(), eos_token_id=ends)
    rows = GenerationMixin.generate(model, **given, **asked)[:, 1:].tolist()
    rows = [until(row, ends) for row in rows]
    return [rows[i : i + n] for i in range(0, len(rows), n)]


BEAMS = {
    "greedy": dict(num_beams=1),
    "two": dict(num_beams=2, length_penalty=1.0, early_stopping=False),
    "three, soon": dict(num_beams=3, length_penalty=0.0, early_stopping=True),
    "four, never": dict(num_beams=4, length_penalty=-1.0, early_stopping="never"),
    "three, long": dict(num_beams=3, length_penalty=2.0, early_stopping=False),
}
OTHERS = {"none": {}, "held back": dict(min_length=5), "forced": dict(forced_eos_token_id=[18, 20])}


@pytest.mark.parametrize("beam", BEAMS.values(), ids=BEAMS)
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_each_end_of_a_list_ends_as_theirs(beam, other, bart):
    checkpoint, ours, model = bart
    source, mask = reference.source_for("bart", rows=6)
    [free] = zip(*their_sequences(model, source, mask, [18], max_length=14), strict=True)
    often = sorted({token for row in free for token in row[2:6]} - {18})[:3]
    asked = dict(max_length=14, num_return_sequences=beam["num_beams"]) | beam | other
    seen = set()
    for ends in ([18, often[0]], [18, *often]):
        settings = read(checkpoint.decoder[0], eos_token_id=ends, **asked)
        expected = their_sequences(model, source, mask, ends, **asked)
        found = settings.sequences(ours, source, mask)
        if other is OTHERS["forced"]:    # two at the last place are equals, which may come in any order
            assert [[said[:12] for said in row] for row in found] == [[said[:12] for said in row] for row in expected]
        else:
            assert found == expected
        seen |= {row[-1] for rows in expected for row in rows} & {*ends}
    assert len(seen) >= 2


def test_behind_another_end_comes_the_decoders_own_and_neither_it_nor_padding_is_in_the_answer(tiny):
    settings = read(eos_token_id=[END, 13, 17], suppress_tokens=[END], max_new_tokens=12)
    source = torch.randint(4, 40, (40, 5), generator=torch.Generator().manual_seed(1))
    answers = settings.sequences(tiny, source)
    assert {row[-1] for [row] in answers} >= {13, 17} and not {t for [row] in answers for t in row} & {END, PAD}
    for i, [row] in enumerate(answers):
        said = tuple(int(step.tokens) for step in settings.greedy_steps(tiny, source[i : i + 1]))
        assert said == (row + (END,) if len(row) < 12 else row)


# Draws


def test_draws_follow_the_shares_and_the_generator(tiny):
    source, n = torch.tensor([[5, 6, 7], [9, 9, 8]]), 4000
    settings = replace(read(do_sample=True, top_k=6, temperature=3.0, max_new_tokens=1), n_sequences=n)
    found = settings.sequences(tiny, source, generator=torch.Generator().manual_seed(3))
    start = torch.full((2, 1), START)
    shares = settings.constrain(tiny(source, start)[:, -1], start).softmax(-1)
    for row, share in zip(found, shares, strict=True):
        assert len(row) == n and {len(tokens) for tokens in row} == {1}
        drawn = torch.bincount(torch.tensor(row).flatten(), minlength=VOCAB) / n
        assert (drawn - share).abs().max() < 0.03 and not drawn[share == 0].any()
    again = settings.sequences(tiny, source, generator=torch.Generator().manual_seed(3))
    assert again == found != settings.sequences(tiny, source, generator=torch.Generator().manual_seed(4))


def test_with_a_mask_each_source_has_its_own_draws_in_order(tiny):
    source, mask = pad([[5, 6, 7], [9], [8, 4]], PAD)
    settings = read(do_sample=True, top_k=1, num_return_sequences=3, eos_token_id=[END, 6])
    greedily = replace(settings, sampling=None).sequences(tiny, source, mask)
    assert settings.sequences(tiny, source, mask) == [3 * row for row in greedily]
    assert [row[0] for row in greedily] == [
        read(eos_token_id=[END, 6]).sequences(tiny, torch.tensor([ids]))[0][0] for ids in ([5, 6, 7], [9], [8, 4])
    ]


IMPOSSIBLE = dict(top_k=-1, top_p=0.0, temperature=0.0, min_p=2.0, epsilon=-0.1)


@pytest.mark.parametrize("name, value", IMPOSSIBLE.items())
def test_a_value_that_cannot_be_sampled_with_is_refused(name, value):
    with pytest.raises(ValueError, match=f"is {value}; "):
        Sampling(**{name: value})


def test_a_beam_that_draws_is_refused(tiny):
    settings = replace(read(do_sample=True), width=4)
    with pytest.raises(ValueError, match="width is 4 and sampling is set; a beam draws nothing"):
        settings(tiny, torch.tensor([[5, 6]]))


# Limits


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("forced", [None, END])
def test_an_answer_that_the_limit_ended_is_told_from_one_that_ended_itself(width, forced, tiny):
    source = torch.randint(4, 40, (30, 5), generator=torch.Generator().manual_seed(1))
    settings = read(num_beams=width, max_length=7, forced_eos_token_id=forced)
    with pytest.warns(UserWarning) as warned:
        answers = settings(tiny, source)
    cut = [settings.is_cut(row) for row in answers]
    assert 0 < sum(cut) < 30
    assert cut == [len(row) == 6 and (forced is not None or row[-1] != END) for row in answers]
    [message] = [str(warning.message) for warning in warned]
    assert f"{sum(cut)} of 30 answers were cut off at the limit of 6 tokens" in message and "limited(" in message
    longer = settings.limited(20)
    assert (longer.max_steps, longer.constraints.max_length) == (20, 21)
    assert longer == read(num_beams=width, max_new_tokens=20, forced_eos_token_id=forced)
    again = longer.sequences(tiny, source)
    assert all(len(new) > 6 for [new], was in zip(again, cut, strict=True) if was and width == 1 and not forced)


def test_nobody_is_warned_where_no_answer_is_cut(tiny, recwarn):
    settings = read(max_new_tokens=8, suppress_tokens=[*range(END), *range(END + 1, VOCAB)])
    assert settings(tiny, torch.tensor([[5, 6, 7]])) == [(END,)] and not recwarn.list


def test_a_limit_beyond_the_positions_or_below_one_is_refused(tiny):
    with pytest.raises(ValueError, match="max_length is 1"):
        read().limited(0)
    with pytest.raises(ValueError, match="max_steps is 99"):
        read().limited(99)(tiny, torch.tensor([[5, 6]]))


@pytest.mark.parametrize(
    "asked, steps",
    [({}, 20), (dict(max_length=9), 8), (dict(max_length=9, max_new_tokens=4), 4), (dict(max_new_tokens=99), 32)],
)
def test_the_limit_is_transformers(asked, steps):
    assert read(**asked).max_steps == steps


def test_an_old_first_token_is_honoured_and_named_where_it_lacks():
    assert read(force_bos_token_to_be_generated=True, bos_token_id=7).constraints.forced_first == 7
    assert read(force_bos_token_to_be_generated=False, bos_token_id=7).constraints.forced_first is None
    with pytest.raises(ValueError, match="bos_token_id is None; force_bos_token_to_be_generated needs it"):
        read(force_bos_token_to_be_generated=True)


# Padding


@pytest.mark.parametrize("width", [1, 2])
def test_rows_that_end_in_padding_need_a_mask(width, tiny):
    source, mask = pad([[5, 6, 7], [9], [8, 4]], PAD)
    settings = read(num_beams=width, max_new_tokens=3)
    for decode in (settings.sequences, settings.greedy_steps):
        with pytest.raises(ValueError, match=r"source rows \[1, 2\] end in padding, and no mask is given; give"):
            decode(tiny, source)
    with pytest.raises(ValueError, match=r"source rows \[1, 2, 4, 5, 7, 8, 10, 11\] and 2 more end in padding"):
        settings.sequences(tiny, source.repeat(5, 1))
    assert len(settings.sequences(tiny, source, mask)) == 3
    assert len(settings.sequences(tiny, source[:1])) == 1
    both = EncoderDecoder(tiny.encoder, tiny.decoder, tiny.projection).eval()
    config, tiny.decoder.config = tiny.decoder.config, replace(tiny.decoder.config, end_id=PAD)
    try:    # where padding ends sentences too, it says nothing
        assert len(settings.sequences(both, source)) == 3
    finally:
        tiny.decoder.config = config


# Refusals

REFUSED = {
    "a beam that draws": (dict(do_sample=True, num_beams=2), "num_beams is 2; with do_sample only 1 is built"),
    "typical": (dict(do_sample=True, typical_p=0.9), "typical_p is 0.9; only 1 is built here"),
    "eta": (dict(do_sample=True, eta_cutoff=0.1), "eta_cutoff is 0.1; only 0 is built here"),
    "entropy": (dict(do_sample=True, top_h=0.4), "top_h is 0.4; only None is built here"),
    "no temperature": (dict(do_sample=True, temperature=0), "temperature is 0; it must be a number from"),
    "no share": (dict(do_sample=True, top_p=0.0), "top_p is 0.0; it must be a number from"),
    "too many answers": (dict(num_beams=2, num_return_sequences=3), "it must be at most num_beams, 2"),
    "perhaps": (dict(do_sample="yes"), "do_sample is 'yes'; known are True, False"),
    "no penalty": (dict(repetition_penalty=0), "repetition_penalty is 0; it must be a number"),
    "time": (dict(max_time=2.0), "max_time is 2.0; only None is built here"),
    "layers": (dict(dola_layers="high"), "dola_layers is 'high'"),
    "an empty word": (dict(bad_words_ids=[[]]), r"bad_words_ids is \[\[\]\]; it must be a list of words"),
    "an end too high": (dict(eos_token_id=[END, 99]), r"eos_token_id is \[3, 99\]; it must be a list of tokens"),
}


@pytest.mark.parametrize("asked, message", REFUSED.values(), ids=REFUSED)
def test_what_is_not_built_is_refused_by_name(asked, message):
    with pytest.raises(ValueError, match=f"generation_config.json: .*{message}"):
        read(**asked)


def test_the_50_best_are_drawn_from_where_the_file_is_silent():
    settings = read(StackConfig(vocab_size=80, **SHAPE), do_sample=True)
    left = settings.constrain(torch.arange(80.0).expand(2, -1), torch.full((2, 1), START))
    assert left.isfinite().sum(-1).tolist() == [50, 50] and left[:, 30:].isfinite().all()


def test_what_no_draw_asks_for_is_not_refused():
    assert read(typical_p=0.9, top_k=3, temperature=0.0).sampling is None
