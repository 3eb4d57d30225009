"""The model in NumPy is the model, and a word is said without PyTorch."""

import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_steps import golden
from speller import WORDS, small_pronouncer

import annotated_decoder
from annotated_decoder.pretrained.parts import Parts
from annotated_decoder.pronunciation import saying
from annotated_decoder.pronunciation.dictionary import split_of
from annotated_decoder.pronunciation.saying import PRONOUNCER, pronounce, say_words
from annotated_decoder.pronunciation.text import TEXT_FORMATS
from annotated_decoder.strategies import beam_search as torch_beam_search
from annotated_decoder.trained.batches import Transcription
from annotated_decoder.trained.in_numpy import _OWN, NumpyModel, beam_search, check_finite, log_softmax, softmax
from annotated_decoder.trained.model_file import TrainedModel, describe, write_model

SRC = str(Path(annotated_decoder.__file__).parent.parent)
CLOSE = 1e-4


@pytest.fixture(scope="module")
def ours():
    return NumpyModel(PRONOUNCER)


@pytest.fixture(scope="module")
def test_words(dictionary):
    return [word for word in dictionary if split_of(word) == "test"]


def same_steps(ours, told):
    "Tokens, probabilities, and what every head of every layer looks at, as PyTorch has them in `told`."
    for word in told:
        steps = list(ours.steps(word["word"]))
        assert [step.token for step in steps] == word["tokens"], word["word"]
        assert [step.position for step in steps] == list(range(len(steps)))
        p, looks = np.array(word["probabilities"]), np.array(word["attention"])    # (steps vocab), (l h steps source)
        assert np.abs(softmax(np.stack([step.logits for step in steps])) - p).max() < CLOSE, word["word"]
        assert np.abs(np.stack([step.attention for step in steps], 2) - looks).max() < CLOSE, word["word"]


def same_answers(found, expected):
    assert [(a.symbols, a.finished) for a in found] == [(a.symbols, a.finished) for a in expected]
    assert all(abs(a.log_probability - b.log_probability) < CLOSE for a, b in zip(found, expected))


def same_beams(ours, theirs, word, width):
    (rows,) = torch_beam_search(theirs.model, torch.tensor([theirs.example(word).source]), width=width)
    found = beam_search(ours.model, ours.ids(word), width)
    assert [ids for ids, _ in found] == [list(row.tokens) for row in rows], word
    assert all(abs(log_p - row.log_probability) < CLOSE for (_, log_p), row in zip(found, rows))


def test_thousands_of_words_are_said_as_pytorch_says_them(ours, trained, test_words):
    words = test_words[::5]
    assert len(words) > 2_000
    same_steps(ours, golden(trained, words))


def test_beams_are_those_of_pytorch(ours, trained, test_words):
    for word in test_words[::213]:
        same_beams(ours, trained, word, 4)
    assert len(test_words[::213]) > 50


@pytest.mark.parametrize("beam, best", [(1, 1), (3, 1), (5, 3)])
def test_answers_are_those_of_pytorch(ours, trained, beam, best):
    words = ["read", "nebulizing", "a", "qxzqxz", "b" * 47]
    for word, expected in trained.stream(words, beam=beam, best=best):
        same_answers(ours.transcribe(word, beam, best), expected)


SHAPES = {
    "pre-norm": {}, "post-norm": dict(pre_norm=False), "untied": dict(tied=False), "four heads": dict(n_heads=4),
    "eleven layers": dict(n_layers=11, d_model=8), "eleven in post-norm": dict(n_layers=11, d_model=8, pre_norm=False),
}    # fmt: skip


def moved(made, seed=0):
    "Its biases and norms moved off 0 and 1."
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in made.model.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p), alpha=0.3)
    return made


def both(made, path):
    "A model's file, in NumPy and in PyTorch."
    made.save(path)
    return NumpyModel(path), TrainedModel.load(path)


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_a_small_model_of_chance_is_the_same_too(changes, tmp_path):
    made, words = moved(small_pronouncer(seed=3, **changes)), [*WORDS, "a", "e" * 11]
    ours, theirs = both(made, tmp_path / "m")
    for word in words:
        same_beams(ours, theirs, word, 3)
        for beam, best in ((1, 1), (8, 4)):    # with padding and start symbols in them
            ((_, expected),) = theirs.stream([word], beam=beam, best=best)
            same_answers(ours.transcribe(word, beam, best), expected)
    with torch.no_grad():
        made.model.projection.bias[:2] = -100
    ours, theirs = both(made, tmp_path / "m")
    same_steps(ours, golden(theirs, words))


def test_a_shared_table_and_a_head_without_a_bias_are_read(tmp_path):
    made = moved(small_pronouncer())
    made.model.encoder.embedding.tokens.weight = made.model.decoder.embedding.tokens.weight
    made.model.projection.bias = None
    ours, theirs = both(made, tmp_path / "m")
    assert (ours.about["shared"], ours.about["projection"]["bias"]) == (True, False)
    for word in WORDS:
        same_beams(ours, theirs, word, 6)


def test_more_rows_than_tokens_hold_only_what_was_found(tmp_path):
    moved(small_pronouncer()).save(tmp_path / "m")
    ours = NumpyModel(tmp_path / "m")
    ours.model.config = ours.model.config | {"max_len": 1}
    found = beam_search(ours.model, ours.ids("cab"), 20)
    assert len(found) == len(ours.target) and len({ids[0] for ids, _ in found}) == len(found)
    assert sum(np.exp(p) for _, p in found) == pytest.approx(1)


def test_nothing_overflows():
    rows = np.array([[1e4, 0, -1e4], [-1e4, -1e4, -1e4]], dtype=np.float32)
    assert softmax(rows).tolist() == [[1, 0, 0], pytest.approx([1 / 3] * 3)]
    assert log_softmax(rows).tolist() == [[0, -1e4, -2e4], pytest.approx([-np.log(3)] * 3)]


# Refusals

def test_of_many_wrong_rows_the_first_are_named_and_the_others_counted():
    with pytest.raises(ValueError, match=r"step 3: rows \[0, 1, 2, 3, 4, 5, 6, 7\] and 92 more have NaN"):
        check_finite(np.full((100, 5), np.nan), 2)
    with pytest.raises(ValueError, match=r"step 1: rows \[0, 1, 2, 3, 4, 5, 6, 7\] have NaN"):
        check_finite(np.full((8, 5), np.nan), 0)


@pytest.mark.parametrize("damage, message", {
    "a weight": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is damaged: its SHA-256 is another; get the file"),
    "the header": (lambda data: data.replace(b"K", b"Q", 1), "is damaged: its SHA-256 is another; get the file anew"),
    "its end": (lambda data: data[:-1], "is no whole model file"),
    "its length": (lambda data: data[:4] + b"\xff" + data[5:], "is no whole model file"),
    "no model": (lambda data: b"\x02\0\0\0\0\0\0\0{}", "is no model of this book; give a file that save"),
}.items())    # fmt: skip
def test_a_damaged_file_is_refused(damage, message, tmp_path):
    small_pronouncer().save(tmp_path / "m")
    change, why = message
    (tmp_path / "m").write_bytes(change((tmp_path / "m").read_bytes()))
    with pytest.raises(ValueError, match=f"{tmp_path / 'm'} {why}"):
        NumpyModel(tmp_path / "m")


OTHERS = {
    "norm": "rms", "norm_eps": 1e-3, "activation": "silu", "gated": True, "linear_bias": False, "head_dim": 3,
    "attention_scale": 1.0, "positions": "relative", "embedding_scale": 1.0, "embedding_norm": True,
    "guarded": True,
}    # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_parts_of_other_families_are_refused_by_name(name, tmp_path):
    small_pronouncer(**{name: OTHERS[name]}).save(tmp_path / "m")
    wrong = f"the encoder's {name} is {OTHERS[name]!r}, and NumPy's is {_OWN[name]!r}; load it with TrainedModel"
    with pytest.raises(ValueError, match=re.escape(wrong)):
        NumpyModel(tmp_path / "m")


def test_a_scaled_head_and_a_model_without_symbols_are_refused(tmp_path):
    about, tensors = describe(small_pronouncer())
    write_model(tmp_path / "scaled", about | {"projection": {"bias": True, "scale": 0.5}}, tensors)
    with pytest.raises(ValueError, match=r"the projection's scale is 0\.5, and NumPy's is 1\.0"):
        NumpyModel(tmp_path / "scaled")
    write_model(tmp_path / "bare", *describe(small_pronouncer().model))
    with pytest.raises(ValueError, match="bare holds a model without vocabularies"):
        NumpyModel(tmp_path / "bare")


def test_every_part_that_there_is_is_looked_at():
    own = {name: value for name, value in asdict(Parts()).items() if not name.startswith("relative_")}
    assert own == _OWN and OTHERS.keys() == own.keys()


@pytest.mark.parametrize("word", ["слово", "a-b", "3", "b" * 48])
def test_a_word_that_cannot_be_read_is_refused_as_by_pytorch(word, ours, trained):
    ((_, expected),) = TrainedModel.stream(trained, [word])
    for refuse in (ours.steps, ours.transcribe):
        with pytest.raises(ValueError) as error:
            refuse(word)
        assert str(error.value) == str(expected)


# Words are said one by one, or in batches


def test_many_pieces_are_said_in_batches_and_few_one_by_one(monkeypatch):
    asked, placed = [], []

    def stream(pieces, **options):
        asked.append((len(pieces), options))
        return ((piece, [Transcription(("B",), -1.0)]) for piece in pieces)

    class Network:
        transcribe = staticmethod(lambda *_: [Transcription(("A",), -1.0)])

    def in_batches(device):
        placed.append(device)
        return SimpleNamespace(stream=stream)

    monkeypatch.setattr(saying, "_in_batches", in_batches)
    monkeypatch.setattr(saying, "speaker", lambda: Network)
    words = [a + b + "x" for a in "abcdefghijklmnopqrstuvwxyz" for b in "abcdefghijklmnopqrstuvwxyz"]
    listed = {word: [("L",)] for word in words[:9]}

    def said(n, **options):
        told = say_words([*words[:n], *words[:9], "x-ray"], **options)    # some twice, and one more piece
        return {found[0].symbols for word, found in told if word != "x-ray"}

    assert said(510) == {("A",)} and asked == []
    assert said(511) == {("B",)} and asked == [(512, dict(beam=1, best=1, batch_size=256))]
    assert said(519, dictionary=listed) == {("A",), ("L",)} and len(asked) == 1
    assert said(520, dictionary=listed, beam=3, best=2) == {("B",), ("L",)}
    assert asked[1:] == [(512, dict(beam=3, best=2, batch_size=85))]
    assert said(600, read_ahead=511) == {("A",)} and len(asked) == 2
    assert said(3, device="here") == {("B",)} and {*placed[:-1]} == {"cpu"} and placed[-1] == "here"


def test_both_ways_say_the_same(test_words):
    words = [*test_words[:520], "слово", "CSRs", "x-ray", "b" * 60]
    bulk, single = list(say_words(words)), [next(say_words([word])) for word in words]
    assert [word for word, _ in bulk] == words
    for (_, found), (_, other) in zip(bulk, single, strict=True):
        if isinstance(found, ValueError):
            assert str(found) == str(other)
        else:
            same_answers(found, other)


# Without PyTorch

COMMAND = """
import sys
sys.argv[0] = "annotated-decoder"
from annotated_decoder.__main__ import main
status = main()
print("torch" in sys.modules, file=sys.stderr)
sys.exit(status)
"""


def python(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8",
        env=os.environ | {"PYTHONPATH": SRC, "PYTHONIOENCODING": "utf-8"}, check=True,
    )    # fmt: skip


LINES = [
    "nebulizing", "--steps nebulizing", "--steps --layer 2 nebulizing", "--best 3 nebulizing", "--beam 4 nebulizing",
    "--dictionary read Chatbot CSR x-ray", "--text nebulizing", "--format ipa cat", "--format json cat",
    *(f"--text --format {name} Hello, CSRs!" for name in TEXT_FORMATS),
]    # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_the_command_pronounces_without_pytorch(line):
    done = python("-c", COMMAND, "pronounce", *line.split())
    assert done.stdout and done.stderr == "False\n"


NAMES = """
import sys
import annotated_decoder
from annotated_decoder import pronounce
from annotated_decoder.pronunciation import PHONEMES, ipa, read_cmudict, read_word, rewrite, score, split_of
from annotated_decoder.trained import NumpyModel, Transcription
from annotated_decoder.pronunciation import text
print(*pronounce("nebulizing"), rewrite("Cats, dogs!"))
print("torch" in sys.modules)
from annotated_decoder.pronunciation import steps
print("torch" in sys.modules)
"""


def test_the_names_of_words_and_texts_need_no_pytorch():
    said, *loaded = python("-c", NAMES).stdout.splitlines()
    assert said.startswith(" ".join(pronounce("nebulizing")) + " {") and loaded == ["False", "True"]


def test_a_first_word_is_there_at_once():
    took = []
    for _ in range(4):    # the first may compile
        start = time.perf_counter()
        python("-m", "annotated_decoder", "pronounce", "nebulizing")
        took.append(time.perf_counter() - start)
    assert min(took) < 2
