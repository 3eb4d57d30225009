"""What cannot be served is refused by an error that names the value and the remedy; nothing else is spoiled by it."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import grown
from safetensors.torch import save_file
from small import VOCAB, config, ids, mask, model, noise

from annotated_decoder import cli
from annotated_decoder.attention import MultiHeadAttention
from annotated_decoder.caching import Cache
from annotated_decoder.cross_attention import memory_keys_values
from annotated_decoder.encoder_outputs import Vocabulary
from annotated_decoder.generation import generate
from annotated_decoder.pretrained.rules import pooled_beam_search
from annotated_decoder.pronunciation.model import pronounce, pronouncer, steps
from annotated_decoder.pronunciation.phonemes import ipa
from annotated_decoder.pronunciation.words import read_word
from annotated_decoder.softmax import cross_entropy, softmax
from annotated_decoder.strategies import beam_search, sampler, top_k, top_p
from annotated_decoder.trained import whole_files
from annotated_decoder.trained.model_file import TrainedModel, read_model, write_model
from annotated_decoder.trained.whole_files import check_target


@pytest.fixture(autouse=True, scope="module")
def without_the_checks_of_types():
    "The package as its users have it: elsewhere in these tests, a value of a wrong type or shape is refused earlier."
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refusal(kind, call, *parts):
    "The message of the error that `call()` raises; each of the parts is in it, and it is one line."
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert type(error.value) is kind and "\n" not in message
    assert [part for part in parts if part not in message] == [], message
    return message


# Words

WORDS = {  # what is given: the error, the value in its message, the remedy in its message
    "an unknown character": ("слово", ValueError, "'слово' has ['в', 'л', 'о', 'с']", "letters a to z"),
    "a digit and a space": ("a 1", ValueError, "'a 1' has [' ', '1']", "write numbers in words"),
    "a space": ("a b", ValueError, "'a b' has [' ']", "give one word at a time"),
    "a surrogate": ("b\udcff", ValueError, r"'b\udcff'", "write it as it is said"),
    "no letter": ("", ValueError, "'' is empty", "made of letters"),
    "far too long": ("é" * 10**6, ValueError, "… has 1000000 characters", "at most 100"),
    "a number": (3, TypeError, "3 is a int", "a string of letters"),
    "nothing": (None, TypeError, "None is a NoneType", "a string of letters"),
    "bytes": (b"cat", TypeError, "b'cat' is a bytes", "a string of letters"),
    "letters": (["c"], TypeError, "['c'] is a list", "a string of letters"),
}


@pytest.mark.parametrize("word, kind, value, remedy", WORDS.values(), ids=WORDS)
def test_a_word_that_cannot_be_pronounced_is_refused(word, kind, value, remedy):
    for call in (read_word, pronounce, steps):
        assert len(refusal(kind, lambda call=call: call(word), value, remedy)) < 200


@pytest.mark.parametrize("call", [pronounce, steps])
def test_a_word_longer_than_the_model_is_refused(call):
    word = "ab" * 24
    assert len(refusal(ValueError, lambda: call(word), f"{word[:47]!r}… has 48 symbols", "positions for 47")) < 200


def test_a_stream_outlives_what_is_no_string():
    words = ["cat", float("nan"), None, 3, "cat"]
    told = list(pronouncer().stream(words))
    assert [isinstance(found, ValueError) for _, found in told] == [False, True, True, True, False]
    assert "nan is a float; a word here is a string of letters" in str(told[1][1])


# Decoding

SOURCES = {  # a source, its mask: the value, the remedy
    "an id too high": (torch.tensor([[3, VOCAB]]), None, f"token {VOCAB}", f"0 to {VOCAB - 1}"),
    "an id below 0": (torch.tensor([[3, 4], [-1, 5]]), None, "token -1", f"0 to {VOCAB - 1}"),
    "floats": (torch.ones(1, 3), None, "torch.float32 of shape (1, 3)", "give token ids"),
    "booleans": (torch.ones(1, 3, dtype=torch.bool), None, "torch.bool of shape (1, 3)", "give token ids"),
    "one dimension": (torch.tensor([3, 4]), None, "shape (2,)", "(batch, source)"),
    "three dimensions": (torch.full((1, 2, 3), 4), None, "shape (1, 2, 3)", "(batch, source)"),
    "no row": (ids(1, 3)[:0], None, "shape (0, 3)", "(batch, source)"),
    "no column": (ids(2, 3)[:, :0], None, "shape (2, 0)", "(batch, source)"),
    "too many positions": (ids(1, 13), None, "13 positions asked for, but max_len is 12", "shorten"),
    "a mask of floats": (ids(2, 3), torch.ones(2, 3), "mask is torch.float32", "give torch.bool of shape (2, 3)"),
    "a mask of ids": (ids(2, 3), ids(2, 3), "mask is torch.int64", "give torch.bool of shape (2, 3)"),
    "a mask across": (ids(2, 3), mask(2, 2, 2), "of shape (3, 2)", "give torch.bool of shape (2, 3)"),
    "a mask of one row": (ids(2, 3), mask(3), "of shape (1, 3)", "give torch.bool of shape (2, 3)"),
    "a mask for attention": (ids(2, 3), mask(3, 2)[:, None, None], "of shape (2, 1, 1, 3)", "shape (2, 3)"),
    "rows of padding only": (ids(4, 3), mask(3, 0, 1, 0), "rows [1, 3] are fully masked", "leave them out"),
}


@pytest.mark.parametrize("decode", [generate, beam_search, pooled_beam_search])
@pytest.mark.parametrize("source, source_mask, value, remedy", SOURCES.values(), ids=SOURCES)
def test_a_source_that_cannot_be_decoded_is_refused(decode, source, source_mask, value, remedy):
    refusal(ValueError, lambda: decode(model(), source, source_mask), value, remedy)


PROMPTS = {  # a prompt for two sources: the value, the remedy
    "an id too high": (torch.tensor([[1, 4], [1, VOCAB]]), f"prompt has token {VOCAB}", f"0 to {VOCAB - 1}"),
    "an id below 0": (torch.tensor([[1, 4], [1, -1]]), "prompt has token -1", f"0 to {VOCAB - 1}"),
    "floats": (torch.ones(2, 3), "torch.float32 of shape (2, 3)", "give token ids of shape (2, prompt)"),
    "booleans": (torch.ones(2, 3, dtype=torch.bool), "torch.bool of shape (2, 3)", "give token ids"),
    "one row for both": (ids(1, 3), "shape (1, 3)", "give token ids of shape (2, prompt)"),
    "one dimension": (torch.tensor([1, 4]), "shape (2,)", "give token ids"),
    "no token": (ids(2, 3)[:, :0], "shape (2, 0)", "the start symbol first"),
    "too many tokens": (ids(2, 13), "prompt has 13 tokens", "positions for 1 to 12"),
}


@pytest.mark.parametrize("decode", [generate, beam_search, pooled_beam_search])
@pytest.mark.parametrize("prompt, value, remedy", PROMPTS.values(), ids=PROMPTS)
def test_a_prompt_that_cannot_be_read_is_refused(decode, prompt, value, remedy):
    refusal(ValueError, lambda: decode(model(), ids(2, 3), prompt=prompt), value, remedy)


def used_cache():
    generate(model(), ids(1, 3), cache=(cache := Cache()), max_steps=2)
    return cache


def broken_cache():
    "One whose first layer has read a token that the decoder has not."
    cache = Cache()
    cache.extend(0, noise(1, 2, 1, 4), noise(1, 2, 1, 4))
    return cache


def decoded(decode, changed=lambda made: made, **options):
    return lambda: decode(changed(model()), ids(1, 3), **options)


def keys_values(memory_mask):
    return lambda: memory_keys_values(MultiHeadAttention(8, 2).double(), noise(2, 3, 8), memory_mask)


def loss(**options):
    return lambda: cross_entropy(torch.zeros(2, 3, 5), torch.zeros(2, 3, dtype=torch.long), **options)


def trained_on(source, target):
    return lambda: TrainedModel(model(), Vocabulary.of(source), Vocabulary.of(target), {})


NAN, INF, ROW = float("nan"), float("inf"), torch.zeros(1, 5)
NOT_WHOLE, COLD = (0, -2, 2.5, 2.0, NAN, INF), (0, 0.0, -1, NAN, INF, -INF)
REFUSED = {  # the call: the value, the remedy
    "an unknown strategy": (decoded(generate, choose="beam"), "choose is 'beam'", "give a function"),
    "no constraint": (decoded(generate, constrain="none"), "constrain is 'none'", "give a function"),
    "no constraint, beam": (decoded(beam_search, constrain=(3,)), "constrain is (3,)", "give a function"),
    "no strategy": (decoded(generate, choose=None), "choose is None", "give a function"),
    "training mode": (decoded(generate, lambda m: m.train()), "training mode", "call model.eval()"),
    "training mode, beam": (decoded(beam_search, lambda m: m.train()), "training mode", "call model.eval()"),
    "a used cache": (decoded(generate, cache=used_cache()), "cache has 2 tokens", "make a new one"),
    "a cache left halfway": (decoded(generate, cache=broken_cache()), "keys of 1 tokens", "make a new cache"),
    "too many steps": (decoded(beam_search, max_steps=13), "max_steps is 13", "1 to 12"),
    **{
        f"length penalty {x}": (decoded(beam_search, length_penalty=x), f"length_penalty is {x}", "give 0 for none")
        for x in (NAN, INF, -INF, 1e300, 10.5, -10.5)
    },
    **{f"temperature {x}": (lambda x=x: sampler(x), f"temperature is {x}", "above 0 and finite") for x in COLD},
    **{f"softmax {x}": (lambda x=x: softmax(ROW, x), f"temperature is {x}", "above 0 and finite") for x in COLD},
    **{f"p {x}": (lambda x=x: top_p(ROW, x), f"p is {x}", "above 0 and at most 1") for x in (0, -0.1, 1.1, NAN, INF)},
    **{f"sampler p {x}": (lambda x=x: sampler(p=x), f"p is {x}", "above 0 and at most 1") for x in (0, 1.1, NAN)},
    **{f"k {x}": (lambda x=x: top_k(ROW, x), f"k is {x}", "at least 1") for x in NOT_WHOLE},
    **{f"sampler k {x}": (lambda x=x: sampler(k=x), f"k is {x}", "at least 1") for x in NOT_WHOLE},
    **{f"width {x}": (decoded(beam_search, width=x), f"width is {x}", "at least 1") for x in NOT_WHOLE},
    **{f"max_steps {x}": (decoded(generate, max_steps=x), f"max_steps is {x}", "1 to 12") for x in NOT_WHOLE},
    "memory mask of floats": (keys_values(torch.ones(2, 3)), "mask is torch.float32", "torch.bool of shape (2, 3)"),
    "memory mask across": (keys_values(mask(2, 2, 2)), "of shape (3, 2)", "torch.bool of shape (2, 3)"),
    "memory mask of one row": (keys_values(mask(3)), "of shape (1, 3)", "torch.bool of shape (2, 3)"),
    "heads": (lambda: MultiHeadAttention(8, 3), "3 heads do not divide d_model = 8", "give head_dim"),
    "no heads": (lambda: MultiHeadAttention(8, 0), "0 heads do not divide d_model = 8", "give head_dim"),
    "loss mask of floats": (loss(mask=torch.ones(2, 3)), "mask is torch.float32", "give torch.bool"),
    "loss mask of one row": (loss(mask=mask(3)), "(1, 3)", "(2, 3)"),
    "loss mask of rows": (loss(mask=torch.tensor([True, False])), "(2,)", "(2, 3)"),
    **{f"smoothing {x}": (loss(smoothing=x), f"smoothing is {x}", "at least 0 and below 1") for x in (-0.1, 1.0, NAN)},
    "a source vocabulary": (trained_on("ab", "ABCDEFGH"), "source vocabulary has 5 symbols", f"have {VOCAB}; give the"),
    "a target vocabulary": (trained_on("abcdefgh", "A"), "target vocabulary has 4 symbols", f"have {VOCAB}; give the"),
}


@pytest.mark.parametrize("call, value, remedy", REFUSED.values(), ids=REFUSED)
def test_an_argument_that_cannot_work_is_refused(call, value, remedy):
    refusal(ValueError, call, value, remedy)


@pytest.mark.parametrize("source, source_mask, value, remedy", SOURCES.values(), ids=SOURCES)
def test_a_compiled_model_refuses_what_the_model_does(source, source_mask, value, remedy):
    compiled = torch.compile(model(), backend="eager")
    refusal(ValueError, lambda: generate(compiled, source, source_mask), value, remedy)


def test_a_compiled_model_gives_the_same_answers():
    made, source, real = model(), ids(2, 4), mask(4, 2)
    compiled = torch.compile(made, backend="eager")
    assert torch.equal(generate(compiled, source, real, cache=Cache()), generate(made, source, real, cache=Cache()))
    assert beam_search(compiled, source, real, width=2) == beam_search(made, source, real, width=2)
    assert torch.allclose(compiled(source, ids(2, 3), real), made(source, ids(2, 3), real))
    refusal(ValueError, lambda: generate(torch.compile(model().train(), backend="eager"), source), "training mode")


long = dict(max_len=130, vocab_size=5, end_bias=-2.0)
KINDS = {  # an option: a whole number, and what it does
    **{f"length_penalty {x}": (x, lambda x: beam_search(model(**long), ids(1, 3, 0, 5), width=3, length_penalty=x))
       for x in (-10, -1, 0, 1, 10)},
    **{f"pooled {x}": (x, lambda x: pooled_beam_search(model(), ids(1, 3), width=3, length_penalty=x))
       for x in (-10, -1, 0, 1, 10)},
    **{f"temperature {x}": (x, lambda x: softmax(noise(2, 5), x).tolist()) for x in (1, 3, 10**30)},
    "sampler": (2, lambda x: sampler(x, generator=torch.Generator().manual_seed(1))(noise(9, 5)).tolist()),
    "p": (1, lambda x: top_p(noise(2, 5), x).tolist()),
    "smoothing": (0, lambda x: loss(smoothing=x)().item()),
}  # fmt: skip


@pytest.mark.parametrize("whole_number, call", KINDS.values(), ids=KINDS)
def test_a_whole_number_means_what_the_float_does(whole_number, call):
    assert call(whole_number) == call(float(whole_number)) == call(np.float64(whole_number))
    if abs(whole_number) < 2**63:
        assert call(np.int64(whole_number)) == call(float(whole_number))


def test_outputs_so_long_that_whole_numbers_would_overflow():
    [found] = beam_search(model(**long), ids(1, 3, 0, 5), width=3)
    assert max(len(h.tokens) for h in found) ** 10 > 2**63    # or the law above says nothing of them


@pytest.mark.parametrize("count", [lambda x: top_k(ROW, x), lambda x: beam_search(model(), ids(1, 3), width=x)])
def test_numpy_counts_as_python_does(count):
    assert str(count(np.int64(2))) == str(count(2))


SHAPES = [
    *((name, x) for name in ("vocab_size", "max_len", "d_model", "n_heads", "d_ff", "n_layers") for x in (0, 2.5, "8")),
    *((name, x) for name in ("d_model", "n_layers") for x in (8.0, None, [8], NAN)),
    *(("head_dim", x) for x in (0, -1, 2.5, "4")),
    *((name, x) for name in ("relative_buckets", "relative_distance") for x in (0, -8, 2.5, "8", None, NAN)),
    *((name, x) for name in ("norm_eps", "embedding_scale", "attention_scale") for x in (0, -1.0, NAN, INF, "1", True)),
    *((name, x) for name in ("gated", "linear_bias", "embedding_norm") for x in (0, 1, None, "no")),
    *((name, x) for name in ("pad_id", "start_id", "end_id") for x in (-1, VOCAB, 1.0, "1")),
    *(("dropout", x) for x in (-0.1, 1.0, NAN, "0.1", None)),
    *((name, x) for name in ("norm", "activation", "positions") for x in ("best", None, ["layer"])),
    ("pre_norm", "no"),
]


@pytest.mark.parametrize("name, value", SHAPES)
def test_a_shape_that_cannot_work_is_refused(name, value):
    refusal(ValueError, lambda: config(**{name: value}), f"{name} is {value!r}; ")


def test_widths_that_do_not_fit_each_other_are_refused():
    refusal(ValueError, lambda: config(n_heads=3), "3 heads do not divide d_model = 8", "give head_dim")
    for kind in ("sinusoidal", "sinusoidal_halves"):
        odd = dict(d_model=9, n_heads=3, positions=kind)
        refusal(ValueError, lambda odd=odd: config(**odd), "d_model = 9 must be even", "or positions learned")
    for buckets, distance in ((3, 128), (32, 16), (8, 4)):
        shape = dict(relative_buckets=buckets, relative_distance=distance)
        value = f"relative_buckets is {buckets} and relative_distance {distance}"
        refusal(ValueError, lambda shape=shape: config(**shape), value, "give at least 4 buckets, and a distance above")


# Model files

NOTES = {"é": [1e-05, None], "training": {"epochs": 3}}


def small_model(seed=0, **shape):
    made = model(seed, tied=True, **dict(d_ff=4, n_layers=1, max_len=4) | shape).float()
    return TrainedModel(made, Vocabulary.of("abcdefgh"), Vocabulary.of("ABCDEFGH"), NOTES)


def content(trained):
    "All that a model file holds, in a form that == compares exactly."
    made = trained.model.half()
    state = {name: tensor.tolist() for name, tensor in made.state_dict().items()}
    return made.encoder.config, made.decoder.config, trained.source, trained.target, trained.notes, state


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    small_model().save(path)
    return path


def test_what_is_saved_is_loaded(whole):
    assert content(TrainedModel.load(whole)) == content(small_model())


def header_end(data):
    return 8 + int.from_bytes(data[:8], "little")


DAMAGED = {
    "empty": lambda data: b"",
    "text": lambda data: b"It was the best of times.\n" * 9,
    "zeros": lambda data: bytes(len(data)),
    "pickled": lambda data: b"PK\x03\x04" + data,
    "one byte": lambda data: data[:1],
    "only the header's size": lambda data: data[:8],
    "half of the header": lambda data: data[: header_end(data) // 2],
    "only the header": lambda data: data[: header_end(data)],
    "one byte of weights": lambda data: data[: header_end(data) + 1],
    "half": lambda data: data[: len(data) // 2],
    "all but a byte": lambda data: data[:-1],
    "a byte more": lambda data: data + b"\n",
    "twice": lambda data: data * 2,
    "two weights changed places": lambda data: data[:-4] + data[-2:] + data[-4:-2],
    "another note": lambda data: data.replace(rb"epochs\":3", rb"epochs\":4").replace(b'epochs\\": 3', b'epochs\\": 4'),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_by_its_path(whole, tmp_path, damage):
    path = tmp_path / "model"
    path.write_bytes(damage(whole.read_bytes()))
    assert path.read_bytes() != whole.read_bytes()
    refusal(ValueError, lambda: TrainedModel.load(path), str(path), "anew")


@settings(max_examples=30 * settings.default.max_examples)
@given(st.data())
def test_one_wrong_bit_is_noticed_wherever_it_is(whole, data):
    flipped, path = bytearray(whole.read_bytes()), whole.with_name("flipped")
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
        found = TrainedModel.load(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert content(found) == content(small_model())


def test_a_file_with_the_same_content_in_other_bytes_is_loaded(whole, tmp_path):
    data, path = whole.read_bytes(), tmp_path / "other"
    path.write_bytes(data.replace(b"1e-05", b"1E-05"))
    assert path.read_bytes() != data
    assert content(TrainedModel.load(path)) == content(small_model())


FOREIGN = {  # the metadata of a safetensors file: what is wrong with it
    "no metadata": (None, "no model of this book"),
    "no model": ({"format": "pt"}, "no model of this book"),
    "no JSON": ({"model": "{'encoder'"}, "no whole model file"),
    "an empty header": ({"model": ""}, "no whole model file"),
    "a list": ({"model": "[1, 2]"}, "no model of this book"),
    "no sha256": ({"model": json.dumps({"encoder": {}, "decoder": {}})}, "no model of this book"),
    "another sha256": ({"model": json.dumps({"sha256": "0" * 64})}, "damaged"),
    "no text as sha256": ({"model": json.dumps({"sha256": None})}, "damaged"),
    "brackets": ({"model": "[" * 100_000}, "no whole model file"),
    "digits": ({"model": '{"sha256": ' + "1" * 5_000 + "}"}, "no whole model file"),
}


@pytest.mark.parametrize("metadata, why", FOREIGN.values(), ids=FOREIGN)
def test_a_file_of_something_else_is_refused(tmp_path, metadata, why):
    path = tmp_path / "model"
    for tensors in ({"a": torch.zeros(2)}, {"a": torch.tensor(1.0)}, {"a": torch.zeros(0, 3)}, {}):
        save_file(tensors, path, metadata=metadata)
        message = refusal(ValueError, lambda: TrainedModel.load(path), str(path), why)
        assert "anew" in message or "give a file that save() wrote" in message


def promise(**changes):
    "A header that says this of each stack in turn."
    return [lambda about, tensors, side=side: about[side].update(changes) for side in ("encoder", "decoder")]


def promise_both(**changes):
    "A header that says this of both stacks."
    return [lambda about, tensors: [about[side].update(changes) for side in ("encoder", "decoder")]]


def changed(key, value):
    return [lambda about, tensors: about.update({key: value})]


def without(name):
    return [lambda about, tensors: (tensors if name in tensors else about).pop(name)]


def holding(name, *shape):
    return [lambda about, tensors: tensors.update({name: torch.ones(shape).half()})]


SPECIAL = list(Vocabulary.SPECIAL)
LIES = {  # what the header says, its SHA-256 being right: the value in the message
    "n_layers": (promise(n_layers=10**9), "1000000000 layers and has 1"),
    "d_model": (promise(d_model=2**20), "1048576"),
    "d_model of both": (promise_both(d_model=2**20), "d_model is 1048576, and "),
    "d_ff": (promise(d_ff=2**30), "d_ff is 1073741824, and "),
    "head_dim": (promise(head_dim=2**30), "head_dim is 1073741824, and "),
    "n_heads": (promise(n_heads=2**30, head_dim=1), "n_heads is 1073741824, and "),
    "max_len": (promise(max_len=2**31), "2147483648"),
    "relative positions": (promise(positions="relative"), "relative.weight"),
    "buckets": (promise(positions="relative", relative_buckets=2**40, relative_distance=9**9), "1099511627776"),
    "a gate": (promise(gated=True), "ffn.gate_proj."),
    "no biases": (promise(linear_bias=False), "_proj.bias"),
    "a norm on the embedding": (promise(embedding_norm=True), "embedding.norm."),
    "a string for a scale": (promise(attention_scale="1"), "attention_scale is '1'"),
    "max_len, learned": (promise(max_len=2**31, positions="learned"), "2147483648"),
    "learned positions": (promise(positions="learned"), "embedding.positions' should be (4, 8) and is missing"),
    **{
        f"{name}, beyond all": (promise_both(**{name: 10**30}), f"{name} is {10**30}, and ")
        for name in ("d_model", "d_ff", "vocab_size")
    },
    "head_dim, beyond all": (promise(head_dim=10**400), "head_dim is 1000"),
    "vocab_size": (promise(vocab_size=12), "has 11 symbols, the weights have 12"),
    "vocab_size, huge": (promise(vocab_size=2**40), "vocab_size is 1099511627776, and "),
    "n_layers below 1": (promise(n_layers=-1), "n_layers is -1"),
    "heads that do not divide": (promise(n_heads=3), "3 heads"),
    "an unknown key": (promise(colour="red"), "'colour'"),
    "a string for a number": (promise(d_model="8"), "d_model is '8'"),
    "a string for head_dim": (promise(head_dim="4"), "head_dim is '4'"),
    "a string for a share": (promise(dropout="0.1"), "dropout is '0.1'"),
    "a fraction": (promise(n_layers=1.5), "n_layers is 1.5"),
    "nothing for a number": (promise(max_len=None), "max_len is None"),
    "a list for a norm": (promise(norm=["layer"]), "norm is ['layer']"),
    "a width of one stack": (promise(d_model=4), "the encoder is"),
    "no stack": (changed("encoder", [8]), "list"),
    "no vocabulary": (changed("source", 3), "int"),
    "a word for a vocabulary": (changed("target", "<pad>"), "target vocabulary is str"),
    "vocabulary too short": (changed("source", [*SPECIAL, *"abcdefg"]), "source vocabulary has 10 symbols"),
    "vocabulary too long": (changed("target", [*SPECIAL, *"abcdefghi"]), "target vocabulary has 12 symbols"),
    "a symbol twice": (changed("target", [*SPECIAL, *"abcdefgg"]), "'g', no string or one twice"),
    "numbers for symbols": (changed("source", [*SPECIAL, *range(8)]), "source vocabulary has 0, no string"),
    **{
        f"no {name}": (without(name), f"'{name}'")
        for name in (
            "encoder", "decoder", "tied", "source", "target", "notes",
            "encoder.embedding.tokens.weight", "encoder.layers.0.ffn.up_proj.bias", "decoder.final_norm.weight",
        )
    },
    **{
        f"a surplus {name}": (holding(name, VOCAB, 8), f"'{name}'")
        for name in ("x", "encoder.final_norm.x", "decoder.embedding.positions", "projection.weight")
    },
    "a surplus layer": (holding("encoder.layers.1.x"), "should have 1 layers and has 2"),
    "a tensor of another shape": (holding("decoder.final_norm.weight", 9), "'decoder.final_norm.weight'"),
}


@pytest.mark.parametrize("lies, value", LIES.values(), ids=LIES)
def test_a_header_that_promises_what_the_file_does_not_hold_is_refused_at_once(whole, tmp_path, lies, value):
    path = tmp_path / "model"
    TrainedModel.load(whole)    # the first time, torch loads parts of itself
    for lie in lies:
        about, tensors = read_model(whole)
        lie(about, tensors)
        write_model(path, about, tensors)
        start = time.perf_counter()
        loads = partial(TrainedModel.load, path)
        asked = grown(refusal, ValueError, loads, str(path), value, "get the file anew")
        assert time.perf_counter() - start < 0.5
        assert asked < 64    # MiB


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file_is_not_loaded(tmp_path, kind):
    path = tmp_path / kind
    path.mkdir() if kind == "directory" else os.mkfifo(path)
    opened = None if kind == "directory" else os.open(path, os.O_RDWR)    # so that nobody waits for a writer
    refusal(ValueError, lambda: TrainedModel.load(path), str(path), "file")
    if opened is not None:
        os.close(opened)


# Saving

def make_loop(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, make_loop])
def test_what_is_no_file_is_not_written(tmp_path, make):
    path = tmp_path / "taken"
    make(path)
    before = path.lstat()
    refusal(ValueError, lambda: small_model().save(path), str(path), "give the name of a file")
    after = path.lstat()
    assert (after.st_mode, after.st_ino, after.st_mtime_ns) == (before.st_mode, before.st_ino, before.st_mtime_ns)
    assert os.listdir(tmp_path) == ["taken"]


def no_more(*args, **options):
    raise OSError(30, "Read-only file system")


NO_TARGETS = {  # where a file should be written: what is in the message
    "a folder that takes none": ("m", "Read-only file system"),
    "a name too long": ("n" * 250, "File name too long"),
    "below a file": ("f/x/m", "Not a directory"),
    "in a file": ("f/m", "is no folder; give another name"),
}


@pytest.mark.parametrize("name, why", NO_TARGETS.values(), ids=NO_TARGETS)
def test_where_no_file_can_be_made_is_refused_before_the_work(tmp_path, monkeypatch, name, why):
    (tmp_path / "f").write_text("a file")
    if name == "m":
        monkeypatch.setattr(whole_files, "write_new", no_more)
    path = tmp_path / name
    refusal(ValueError, lambda: check_target(path), str(path), why, "give another")
    assert os.listdir(tmp_path) == ["f"]


def test_trying_a_target_leaves_nothing_there(whole, tmp_path):
    assert check_target(tmp_path / "new" / "m") == tmp_path / "new" / "m"
    assert os.listdir(tmp_path) == ["new"] and os.listdir(tmp_path / "new") == []
    before = whole.stat().st_mtime_ns, whole.read_bytes()
    assert check_target(whole) == whole
    assert (whole.stat().st_mtime_ns, whole.read_bytes()) == before


@pytest.mark.parametrize("there", [False, True])
def test_a_link_stays_and_what_it_names_is_written(whole, tmp_path, there):
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.parent.mkdir()
    if there:
        small_model(1).save(target)
    link.symlink_to(target)
    small_model().save(link)
    assert link.is_symlink() and not target.is_symlink()
    assert target.read_bytes() == whole.read_bytes()


def half_a_file(path, data=b"", like=None):
    path.write_bytes(data[: len(data) // 2])
    if data:    # else a target is tried, with nothing
        raise OSError(28, "No space left on device")


def no_replacement(old, new):
    raise OSError(5, "Input/output error")


FAILURES = [(whole_files, "write_new", half_a_file), (os, "replace", no_replacement)]


@pytest.mark.parametrize("owner, name, fails", FAILURES)
def test_a_write_that_fails_leaves_the_old_file_whole_and_no_other(tmp_path, monkeypatch, owner, name, fails):
    path = tmp_path / "model"
    small_model(1).save(path)
    before = path.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, fails)
        with pytest.raises(OSError):
            small_model().save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640)])
def test_a_model_file_has_the_usual_mode(tmp_path, umask, mode):
    old = os.umask(umask)
    try:
        for _ in range(2):    # a new file, then one in its place
            small_model().save(tmp_path / "model")
            assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == mode
    finally:
        os.umask(old)


# The command line, as a process of its own

SCRIPT = str(Path(sys.executable).with_name("annotated-decoder"))
PLAIN = {k: v for k, v in os.environ.items() if k not in ("PYTHONUNBUFFERED", "PYTHONUTF8", "PYTHONIOENCODING")}
PLAIN |= {"LC_ALL": "C.UTF-8"}
LINES = "\ufeffcat\nr2d2\ncat!\n\n".encode() + b"b\xffd\n" + b"ab" * 24 + b"\n  Zoo \r\n\xef\xbb\xbfCAF\xc3\x89"
COMPLAINTS = [
    ("line 2: 'r2d2' has ['2']", "numbers in words"), ("line 3: 'cat!' has ['!']", "as it is said"),
    ("line 4: '' is empty", "made of letters"), (r"line 5: 'b\udcffd' has", "as it is said"),
    ("line 6: 'aba", "has 48 symbols", "positions for 47"),
]  # fmt: skip
OTHER = "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"
SHELL = {  # what is typed, standard input: the status, the words answered, what is in each line of standard error
    "bad lines": ('"$0" pronounce', LINES, 1, "cat Zoo CAFÉ", COMPLAINTS),
    "another locale": (f'{OTHER} "$0" pronounce', LINES, 1, "cat Zoo CAFÉ", COMPLAINTS),
    "input closed": ('"$0" pronounce <&-', b"", 2, "", [("standard input is closed", "give words, or open it")]),
    "output closed": ('"$0" pronounce cat >&-', b"", 2, "", [("standard output is closed", "open it, or send it to")]),
    "errors closed": ('"$0" pronounce x1 cat 2>&-', b"", 1, "cat", []),
    "disk full": ('"$0" pronounce x1 cat >/dev/full', b"", 2, "", [("word 1: 'x1'",), ("No space left on device",)]),
    "a damaged model": ('"$0" evaluate --model model', b"", 2, "", [("model is no whole model file", "get it anew")]),
}  # fmt: skip


@pytest.mark.parametrize("line, given_lines, status, words, complaints", SHELL.values(), ids=SHELL)
def test_the_command_line_answers_what_it_can(line, given_lines, status, words, complaints, tmp_path, whole):
    (tmp_path / "model").write_bytes(whole.read_bytes()[:-1])
    run = subprocess.run(["sh", "-c", line, SCRIPT], input=given_lines, capture_output=True, cwd=tmp_path, env=PLAIN)
    assert run.stdout.decode() == "".join(f"{word}\t{' '.join(pronounce(word))}\n" for word in words.split())
    for found, parts in zip(run.stderr.decode().splitlines(), complaints, strict=True):
        assert [part for part in parts if part not in found] == [], found
    assert run.returncode == status


@pytest.mark.parametrize("locale", ["", OTHER])
def test_all_that_stands_between_the_words_of_a_text_comes_through(locale):
    given_text = "\ufeff“Zoo”\t—\r\n\r \x00 42é\n\n".encode() + b"\xff\xfe cat"
    command = ["sh", "-c", f'{locale} "$0" pronounce --text', SCRIPT]
    run = subprocess.run(command, input=given_text, capture_output=True, env=PLAIN)
    zoo, cat = (f"{{{' '.join(pronounce(word))}}}".encode() for word in ("zoo", "cat"))
    assert run.stdout == given_text.replace(b"Zoo", zoo).replace(b"cat", cat)
    (complaint,) = run.stderr.decode().splitlines()
    assert complaint.startswith("line 3: ") and "write numbers in words" in complaint and run.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_ipa_is_utf8_whatever_the_locale(encoding):
    environment = PLAIN | {"PYTHONIOENCODING": encoding}
    run = subprocess.run([SCRIPT, "pronounce", "--format", "ipa", "decoder"], capture_output=True, env=environment)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.decode() == f"decoder\t{ipa(pronounce('decoder'))}\n"


@pytest.mark.parametrize("arguments, status", [("pronounce cat", 0), ("evaluate", 2), ("train --out m", 2)])
def test_only_a_reader_of_answers_may_go(arguments, status, monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(sys, "argv", ["annotated-decoder", *arguments.split()])
    for name in ("_run_pronounce", "_run_evaluate", "_run_train"):
        monkeypatch.setattr(cli, name, broken)
    monkeypatch.setattr(cli, "_abandon", lambda stream: None)
    assert cli.main() == status


def started(given_lines):
    "The command line on its way. Where these tests run in the background, Ctrl-C would be off; here it is on."
    switch_on = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    pipes = dict(stdin=given_lines, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen([SCRIPT, "pronounce"], env=PLAIN, preexec_fn=switch_on, **pipes)


def test_a_reader_who_has_enough_ends_it_quietly(tmp_path):
    (tmp_path / "cats").write_text("cat\n" * 60_000)
    with open(tmp_path / "cats") as cats, started(cats) as process:
        assert process.stdout.readline() == b"cat\tK AE1 T\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_ctrl_c_ends_it_without_a_traceback():
    with started(subprocess.PIPE) as process:
        process.stdin.write(b"x1\n" + b"cat\n" * 1_023)    # as many as it reads ahead
        process.stdin.flush()
        assert process.stderr.readline().startswith(b"line 1: 'x1'")    # now it waits for more
        process.send_signal(signal.SIGINT)
        answers, complaints = process.communicate(timeout=60)
    assert complaints == b"" and {*answers.splitlines()} <= {b"cat\tK AE1 T"}
    assert process.returncode == 130


PEAK = """
import resource, subprocess, sys
quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
with open(sys.argv[2]) as lines:
    subprocess.run([sys.argv[1], "pronounce", *sys.argv[3:]], stdin=lines, **quiet)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""    # a process of its own: what this one holds would count as the command's


@pytest.mark.parametrize("options", [[], ["--text"]])
def test_a_long_input_takes_no_more_memory_than_a_short_one(tmp_path, options):
    def peak(n):
        lines = tmp_path / str(n)
        lines.write_bytes((b"cat\n" + b"x1\n" * 49 + (b"x" * 600 + b"\n") * 50) * (n // 100))
        command = [sys.executable, "-c", PEAK, SCRIPT, str(lines), *options]
        return int(subprocess.run(command, capture_output=True, check=True, env=PLAIN).stdout)

    with ThreadPoolExecutor(2) as two:
        short, long = two.map(peak, [2_000, 60_000])
    assert long - short < 4_000    # kB on Linux; the long input has 18 MB


# Threads, and loops left early

def listeners(module):
    return sum(len(m._forward_hooks) for m in module.modules())


def test_threads_do_not_hear_each_other(trained):
    def all_of(word):
        found = [(step.phoneme, step.logits, step.attention) for step in steps(word, attention_layer=1)]
        return pronounce(word), found

    words = ["cat", "nebulizing", "queue", "strengths"] * 3
    alone = [all_of(word) for word in words]
    with ThreadPoolExecutor(4, initializer=torch.set_num_threads, initargs=(1,)) as four:
        together = list(four.map(all_of, words))
    for (said, rows), (also, others) in zip(alone, together, strict=True):
        assert said == also == [phoneme for phoneme, _, _ in rows[:-1]]
        for (_, logits, attention), (_, logits_too, attention_too) in zip(rows, others, strict=True):
            assert torch.equal(logits, logits_too) and torch.equal(attention, attention_too)
    assert listeners(trained.model) == 0


@pytest.mark.parametrize("n", [1, 3])
def test_a_loop_left_early_leaves_no_listener(trained, n):
    loop = steps("nebulizing", attention_layer=1)
    assert len(list(islice(loop, n))) == n
    heard = loop.gi_frame.f_locals["model"]
    assert listeners(heard) == 1
    loop.close()
    assert listeners(heard) == listeners(trained.model) == 0
