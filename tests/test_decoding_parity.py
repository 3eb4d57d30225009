"""The loop, the constraints and the pooled beam search give the ids of Hugging Face transformers."""

from functools import cache
from types import SimpleNamespace

import jaxtyping
import pytest
import torch
from small import mask
from torch import nn
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig, MarianConfig, MarianMTModel
from transformers.modeling_outputs import BaseModelOutput

from annotated_decoder.caching import Cache
from annotated_decoder.generation import generate
from annotated_decoder.pretrained.rules import Constraints, pooled_beam_search

VOCAB, LIMIT = 23, 14
SPECIAL = {
    "marian": dict(pad_token_id=22, eos_token_id=0, decoder_start_token_id=22),    # padding starts the decoder
    "bart": dict(pad_token_id=1, eos_token_id=2, decoder_start_token_id=2),        # the end symbol does
}
CLASSES = {"marian": (MarianConfig, MarianMTModel), "bart": (BartConfig, BartForConditionalGeneration)}
MODELS = [("marian", 43), ("bart", 43)]    # seeds whose outputs are long and short, and of many tokens
each_model = pytest.mark.parametrize("kind, seed", MODELS)


@pytest.fixture(autouse=True, scope="module")
def without_the_checks_of_types():
    "Their models are no EncoderDecoder."
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@cache
def their_model(kind, seed):
    "A tiny random one, no norm or bias trivial; its head has other tokens' rows, so that it does not repeat one token."
    make_config, make_model = CLASSES[kind]
    sides = [f"{side}_{what}" for side in ("encoder", "decoder") for what in ("layers", "attention_heads")]
    small = dict(vocab_size=VOCAB, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=24)
    shape = small | dict.fromkeys(sides, 2) | SPECIAL[kind]
    made = make_model(make_config(**shape, bos_token_id=0, forced_eos_token_id=None, attn_implementation="eager"))
    random = torch.Generator().manual_seed(seed)
    made.lm_head = nn.Linear(16, VOCAB, bias=False)
    with torch.no_grad():
        for name, p in made.named_parameters():
            std = 1.5 if "shared" in name else 0.7 if "positions" in name else 0.2
            p.copy_(torch.randn(p.shape, generator=random) * std + ("norm" in name and "weight" in name))
        made.lm_head.weight.copy_(0.4 * made.model.shared.weight[torch.randperm(VOCAB, generator=random)])
        made.final_logits_bias[0, SPECIAL[kind]["eos_token_id"]] = 2.0    # sentences end now and then
    made.generation_config = GenerationConfig(**SPECIAL[kind])
    return made.double().eval()


class Ours:
    "Their model behind our interface; what stands in for keys and values are the tokens, and all are read anew."

    training = False

    def __init__(self, theirs):
        c = theirs.config
        names = dict(pad_id=c.pad_token_id, start_id=c.decoder_start_token_id, end_id=c.eos_token_id)
        self.theirs = theirs
        self.decoder = SimpleNamespace(config=SimpleNamespace(vocab_size=VOCAB, max_len=24, **names))

    def encode(self, source, source_mask=None):
        return self.theirs.get_encoder()(source, attention_mask=source_mask.long()).last_hidden_state

    def decode(self, tokens, memory, memory_mask=None, cache=None):
        if cache is not None:
            new = tokens.shape[1]
            tokens = cache.extend(0, *[tokens[:, None, :, None]] * 2)[0][:, 0, :, 0]
            cache.advance(new)
        encoded = BaseModelOutput(memory)
        options = dict(encoder_outputs=encoded, attention_mask=memory_mask.long(), use_cache=False)
        return self.theirs(decoder_input_ids=tokens, **options).logits


def batch(kind, seed):
    real = mask(7, 4, 6, 3, 5)
    source = torch.randint(3, 20, real.shape, generator=torch.Generator().manual_seed(seed))
    return source.masked_fill(~real, SPECIAL[kind]["pad_token_id"]), real


def prompt_of(kind, length, rows=5):
    start = torch.full((rows, 1), SPECIAL[kind]["decoder_start_token_id"])
    others = torch.randint(3, 20, (rows, length - 1), generator=torch.Generator().manual_seed(length))
    return torch.cat([start, others], 1)


def until_end(ids, end):
    return tuple(ids[: ids.index(end) + 1] if end in ids else ids)


def their_ids(kind, seed, width=1, read=1, **settings):
    "For each source their sequences, best first, without the prompt, and their scores."
    made, (source, real) = their_model(kind, seed), batch(kind, seed)
    many = dict(num_return_sequences=width) if width > 1 else {}
    settings = dict(num_beams=width, max_length=LIMIT, do_sample=False) | many | settings
    outputs = dict(return_dict_in_generate=True, output_scores=True)
    config = GenerationConfig(**SPECIAL[kind], **settings, **outputs)
    prompt = prompt_of(kind, read)
    found = made.generate(source, attention_mask=real.long(), decoder_input_ids=prompt, generation_config=config)
    end = SPECIAL[kind]["eos_token_id"]
    said = [until_end(ids, end) for ids in found.sequences[:, read:].tolist()]
    rows = [said[i : i + width] for i in range(0, len(said), width)]
    return rows, found.sequences_scores.reshape(-1, width).tolist() if width > 1 else None


def our_ids(kind, seed, width=1, read=1, search=pooled_beam_search, **settings):
    made, (source, real) = Ours(their_model(kind, seed)), batch(kind, seed)
    settings = dict(prompt=prompt_of(kind, read), max_steps=LIMIT - read) | settings
    if width > 1 or search is not pooled_beam_search:
        found = search(made, source, real, width=width, **settings)
        return [[h.tokens for h in row] for row in found], [[h.score for h in row] for row in found]
    rows = generate(made, source, real, cache=Cache(), **settings).tolist()
    return [[until_end(ids, made.decoder.config.end_id)] for ids in rows], None


@each_model
def test_what_they_say_is_worth_comparing(kind, seed):
    for width in (1, 3):
        said = [row[0] for row in their_ids(kind, seed, width)[0]]
        assert len({token for ids in said for token in ids}) >= 5
        assert len(set(map(len, said))) >= 2


@each_model
@pytest.mark.parametrize("read", [1, 3])
def test_greedy_ids_are_theirs(kind, seed, read):
    assert our_ids(kind, seed, read=read) == their_ids(kind, seed, read=read)


PENALTIES = [-1.0, 0.0, 0.6, 1.0, 2.0]
STOPS = [False, True, "never"]


@pytest.mark.parametrize("kind, seed, width", [(*MODELS[width % 2], width) for width in (2, 3, 4, 5)])
def test_beams_are_theirs_whatever_the_penalty_and_the_end(kind, seed, width):
    for length_penalty in PENALTIES:
        for early_stopping in STOPS:
            settings = dict(length_penalty=length_penalty, early_stopping=early_stopping)
            ids, scores = our_ids(kind, seed, width, **settings)
            expected, their_scores = their_ids(kind, seed, width, **settings)
            assert ids == expected, settings
            for row, theirs in zip(scores, their_scores, strict=True):
                assert row == pytest.approx(theirs, rel=1e-5)    # their sums are in single precision


def test_the_three_ends_differ():
    for model in MODELS:
        settings = [dict(length_penalty=2.0, early_stopping=early_stopping) for early_stopping in STOPS]
        said = [our_ids(*model, 4, **end)[0] for end in settings]
        assert said[0] != said[1] != said[2] != said[0]


def constraints(kind, read, said):
    "Name, our settings, theirs; what they forbid is what was `said` first, and most often."
    end, first = SPECIAL[kind]["eos_token_id"], tuple(ids[0] for ids in said)
    every = [t for ids in said for t in ids if t != end]
    often = tuple(sorted(set(every), key=lambda t: -every.count(t))[:2])
    other = next(t for t in range(3, 20) if t not in first)
    odd, few = tuple(range(3, 20, 2)), read + 6
    yield "suppressed", dict(suppressed=often), dict(suppress_tokens=often)
    yield "bad words", dict(suppressed=often), dict(bad_words_ids=[[t] for t in often])
    yield "suppressed first", dict(suppressed_first=first), dict(begin_suppress_tokens=first)
    yield "forced last", dict(forced_last=end), dict(forced_eos_token_id=end)
    yield "minimum length", dict(min_length=few), dict(min_length=few)
    yield "minimum of new tokens", dict(min_length=few), dict(min_new_tokens=6)
    for n in (1, 2, 3):
        yield f"no repeated run of {n}", dict(no_repeat_ngram=n), dict(no_repeat_ngram_size=n)
    yield "forced first", dict(forced_first=other), dict(forced_bos_token_id=other)
    both = dict(forced_bos_token_id=other, begin_suppress_tokens=odd)
    yield "forced and suppressed first", dict(forced_first=other, suppressed_first=odd), both
    both = dict(forced_bos_token_id=other, bad_words_ids=[[other]])
    yield "forbidden and forced", dict(forced_first=other, suppressed=(other,)), both
    ours = dict(suppressed=often[1:], suppressed_first=(end, first[0]), forced_last=end)
    theirs = dict(suppress_tokens=often[1:], begin_suppress_tokens=[end, first[0]], forced_eos_token_id=end)
    ours, theirs = ours | dict(no_repeat_ngram=2, min_length=5), theirs | dict(no_repeat_ngram_size=2, min_length=5)
    yield "many at once", ours, theirs


@each_model
@pytest.mark.parametrize("width, read", [(1, 1), (3, 1), (3, 3)])
def test_each_constraint_is_theirs(kind, seed, width, read):
    free, _ = their_ids(kind, seed, width, read)
    for name, ours, theirs in constraints(kind, read, [row[0] for row in free]):
        constrain = Constraints(**ours, max_length=LIMIT, prompt_length=read, end_id=SPECIAL[kind]["eos_token_id"])
        expected, _ = their_ids(kind, seed, width, read, **theirs)
        assert our_ids(kind, seed, width, read, constrain=constrain)[0] == expected, name
        if read == 1 or name not in ("forced first", "forbidden and forced"):    # a longer prompt has its own first
            assert expected != free, name
