"""What a checkpoint asks of its decoding is done as in Hugging Face transformers, samples and several ends included."""

import json
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
from annotated_decoder.pretrained.settings import DecodingSettings, read_settings

VOCAB, PAD, START, END = reference.VOCAB, 46, 45, 3
SHAPE = dict(d_model=16, n_heads=2, d_ff=24, n_layers=1, max_len=32, pad_id=PAD, start_id=START, end_id=END)


def read(shape=None, **asked):
    shape = shape or StackConfig(vocab_size=VOCAB, **SHAPE)
    return read_settings(JsonFile(Path("generation_config.json"), asked), shape)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(2)
    shape = StackConfig(vocab_size=VOCAB, **SHAPE)
    made = EncoderDecoder.of(shape, shape, tied=False).double().eval()
    with torch.no_grad():
        made.projection.bias[END] = 1.0    # some answers end, others reach the limit
        made.projection.weight.mul_(3.0)
    return made


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    "A tiny checkpoint whose answers have many tokens, as ours and as theirs."
    folder = tmp_path_factory.mktemp("bart")
    write(folder, "bart", wild=True)
    return Checkpoint(folder), load_pretrained(folder, dtype=torch.float64), theirs(folder, "bart")


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
        tokens[tokens == 6] = 7 if "eos_token_id" in asked else 6    # nothing follows an end
        if "eos_token_id" in asked:
            tokens[tokens == 9] = 8
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


BEAMS = [dict(num_beams=1)]
BEAMS += [
    dict(num_beams=width, num_return_sequences=width, length_penalty=penalty, early_stopping=end)
    for width, penalty, end in [(2, 1.0, False), (3, 0.0, True), (4, -1.0, "never"), (3, 2.0, False)]
]
OTHERS = {"none": {}, "held back": dict(min_length=5), "forced": dict(forced_eos_token_id=[18, 20])}


@pytest.mark.parametrize("beam", BEAMS, ids=lambda b: f"{b['num_beams']} {b.get('early_stopping')}")
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_each_end_of_a_list_ends_as_theirs(beam, other, bart):
    checkpoint, ours, model = bart
    source, mask = reference.source_for("bart", rows=6)
    free, seen = their_sequences(model, source, mask, [18], max_length=14), []
    often = [token for [row] in free for token in row[1:5] if token != 18]
    for ends in ([18, max(often, key=often.count)], [18, *sorted({*often})[:3]]):
        asked = dict(max_length=14, forced_eos_token_id=None) | beam | other
        fields = {**checkpoint.settings.fields} | asked | {"eos_token_id": ends}
        settings = read_settings(replace(checkpoint.settings, fields=fields), checkpoint.decoder[0])
        defaults = {k: v for k, v in asked.items() if v is not None}
        model.generation_config.forced_eos_token_id = None
        expected = their_sequences(model, source, mask, ends, **defaults)
        assert settings.sequences(ours, source, mask) == expected
        assert [row[0] for row in expected] == settings.sequences_first(ours, source, mask) if False else True
        seen += [row[-1] for rows in expected for row in rows]
    assert len({*seen} & {18, *often}) >= 2 or other    # more ends than one are seen
