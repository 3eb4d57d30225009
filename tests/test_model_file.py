"""A file keeps a model, and a stream of words is answered in order, greedily or with a beam."""

import json
import os
import pickle
import re
from itertools import count, islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import few
from speller import small_pronouncer
from torch.testing import assert_close

from annotated_decoder.encoder_outputs import END, START, pad
from annotated_decoder.generation import generate
from annotated_decoder.pretrained.parts import parts_of
from annotated_decoder.pronunciation.model import PRONOUNCER
from annotated_decoder.trained import model_file
from annotated_decoder.trained import whole_files as safe_files
from annotated_decoder.trained.batches import in_order
from annotated_decoder.trained.model_file import TrainedModel
from annotated_decoder.training import Example


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_keeps_the_model_to_half_precision(tied, tmp_path):
    ours = small_pronouncer(tied=tied, positions="learned", pre_norm=False, norm="rms")
    ours.save(tmp_path / "a.safetensors")
    state = torch.get_rng_state()
    found = TrainedModel.load(tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.source, found.target, found.notes) == (ours.source, ours.target, ours.notes)
    assert found.model.encoder.config == ours.model.encoder.config
    assert found.model.decoder.config == ours.model.decoder.config
    assert not found.model.training
    assert (found.model.projection.weight is found.model.decoder.embedding.tokens.weight) is tied
    kept = found.model.state_dict()
    for name, tensor in ours.model.state_dict().items():
        assert kept[name].dtype == torch.float32
        assert torch.equal(kept[name], tensor.half().float())
    source, tokens = torch.tensor([[3, 4, 2]]), torch.tensor([[1, 5, 4]])
    assert_close(found.model(source, tokens), ours.model(source, tokens), atol=0.02, rtol=0.02)


def test_saving_what_was_loaded_changes_nothing(tmp_path):
    small_pronouncer().save(tmp_path / "a.safetensors")
    TrainedModel.load(tmp_path / "a.safetensors").save(tmp_path / "b.safetensors")
    a, b = (TrainedModel.load(tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    assert a.notes == b.notes


def test_a_file_is_json_and_half_precision_numbers_and_no_pickle(tmp_path, monkeypatch):
    path, ours = tmp_path / "a.safetensors", small_pronouncer()
    ours.save(path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    model = json.loads(header.pop("__metadata__")["model"])
    assert model["notes"] == ours.notes
    assert {entry["dtype"] for entry in header.values()} == {"F16"}
    assert len(data) == 8 + length + 2 * sum(p.numel() for p in ours.model.parameters())

    def refuse(*args, **options):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    assert TrainedModel.load(path).notes == ours.notes


def test_words_are_answered_in_their_order_whatever_the_batch():
    trained = small_pronouncer(tied=False)
    with torch.no_grad():
        trained.model.projection.bias[:3] -= 3.0    # else it says nothing at all
    words = ["dead", "ab", "cab", "ab", "bead", "e"]
    found = trained.transcribe(words)
    assert list(found) == ["dead", "ab", "cab", "bead", "e"]
    assert len({tuple(said) for said in found.values()}) > 1
    assert found == trained.transcribe(words, batch_size=2) == trained.transcribe(words, batch_size=1)
    assert all(found[word] == trained.transcribe([word])[word] for word in words)


def test_an_example_ends_its_source_and_leaves_its_target_open():
    assert small_pronouncer().example("bad", ["B", "AE1", "D"]) == Example([4, 3, 6, END], [4, 3, 5])


def talkative(seed=0):
    "A random model that says something before it ends, and never a padding or start symbol."
    trained = small_pronouncer(seed, tied=False)
    with torch.no_grad():
        trained.model.projection.bias[:2] = -100.0
        trained.model.projection.bias[END] = -1.0
    return trained


letters = st.lists(st.text("abcde", min_size=1, max_size=6), min_size=1, max_size=12)


@few
@given(st.integers(0, 50), letters, st.sampled_from([1, 2, 4]), st.integers(1, 5), st.integers(1, 5))
def test_a_stream_answers_each_word_in_order_whatever_the_batches(seed, words, beam, batch_size, read_ahead):
    trained = talkative(seed)
    found = list(trained.stream(words, beam=beam, best=beam, batch_size=batch_size, read_ahead=read_ahead))
    assert [word for word, _ in found] == words
    alone = {word: dict(trained.stream([word], beam=beam, best=beam))[word] for word in set(words)}
    for word, answers in found:
        assert [a.symbols for a in answers] == [a.symbols for a in alone[word]]
        for answer, other in zip(answers, alone[word], strict=True):
            assert answer.log_probability == pytest.approx(other.log_probability, abs=1e-4)


@few
@given(st.integers(0, 50), letters, st.sampled_from([1, 3]), st.sampled_from([2.0, -1.0]))
def test_a_log_probability_is_that_of_the_symbols_and_the_end(seed, words, beam, end):
    trained = talkative(seed)
    with torch.no_grad():
        trained.model.projection.bias[END] = end    # with the first, answers come to their end
    for word, answers in trained.stream(words, beam=beam, best=beam):
        assert list(answers) == sorted(answers, key=lambda a: -a.log_probability)
        for symbols, log_p, _ in answers:
            ids = [START, *trained.target.encode(symbols), END][: trained.model.decoder.config.max_len + 1]
            source = torch.tensor([trained.example(word).source])
            with torch.no_grad():
                scores = trained.model(source, torch.tensor([ids[:-1]])).log_softmax(-1)[0]
            each = scores[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            assert log_p == pytest.approx(each.sum().item(), abs=1e-4)


def test_greedy_streaming_is_generate():
    trained = talkative(3)
    words = ["cab", "dead", "e", "abba"]
    source, mask = pad([trained.example(word).source for word in words])
    rows = generate(trained.model, source, mask).tolist()
    expected = [tuple(trained.target.decode(row)) for row in rows]
    assert [found[0].symbols for _, found in trained.stream(words)] == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("bad, why", [("cat", "'cat': unknown symbols ['t']"), ("a" * 12, "has 12 symbols; the model")])
@pytest.mark.parametrize("read_ahead", [1, 3, 9])
def test_a_word_that_is_refused_is_answered_by_its_error_and_the_others_go_on(bad, why, read_ahead):
    trained, words = talkative(), ["cab", "bed", bad, "dad", bad]
    found = list(trained.stream(words, read_ahead=read_ahead))
    assert [word for word, _ in found] == words
    for word, answer in found:
        if word == bad:
            assert isinstance(answer, ValueError) and why in str(answer) and bad[:11] in str(answer)
        else:
            assert [a.symbols for a in answer] == [a.symbols for a in dict(trained.stream([word]))[word]]
    with pytest.raises(ValueError, match=re.escape(why)):
        trained.transcribe(words)


@pytest.mark.parametrize("beam", [1, 3])
def test_an_answer_says_whether_its_end_came(beam):
    trained = talkative()
    for bias, finished in ((5.0, True), (-100.0, False)):
        with torch.no_grad():
            trained.model.projection.bias[END] = bias
        for _, (found,) in trained.stream(["cab", "bed"], beam=beam):
            assert found.finished is finished
            assert finished or len(found.symbols) == trained.model.decoder.config.max_len


def test_words_before_a_broken_source_are_answered():
    def source():
        yield from ["cab", "bed"]
        raise OSError("gone")

    answered = []
    with pytest.raises(OSError, match="gone"):
        for word, _ in talkative().stream(source()):
            answered.append(word)
    assert answered == ["cab", "bed"]


def test_one_string_is_no_list_of_words():
    for ask in (talkative().stream, talkative().transcribe):
        with pytest.raises(ValueError, match="'cab' is one string; give a list of words"):
            ask("cab")


def test_a_beam_leaves_out_what_says_padding_or_start():
    for seed in range(4):
        trained = small_pronouncer(seed, tied=False)
        ((_, found),) = trained.stream(["cab"], beam=8, best=8)
        assert len({answer.symbols for answer in found}) == len(found)


def test_a_model_file_reaches_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, replace = [], os.replace
    monkeypatch.setattr(safe_files, "sync", lambda path: done.append(("sync", path.name)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("replace", b.name)), replace(a, b)))
    small_pronouncer().save(tmp_path / "m")
    assert done[1:] == [("replace", "m"), ("sync", tmp_path.name)]
    assert done[0][0] == "sync" and re.fullmatch("m-[0-9a-f]{8}.part", done[0][1])


@pytest.mark.parametrize("it_can", [True, False])
def test_where_fsync_ends_at_the_drives_cache_more_is_asked_for(it_can, tmp_path, monkeypatch):
    asked = []

    def fcntl(handle, request):
        asked.append((request, os.fstat(handle).st_ino))
        if not it_can:
            raise OSError(45, "Operation not supported")

    macos = SimpleNamespace(F_FULLFSYNC=51, fcntl=fcntl)
    monkeypatch.setattr(safe_files, "fcntl", macos)
    monkeypatch.setattr(os, "fsync", lambda handle: asked.append(("fsync", os.fstat(handle).st_ino)))
    safe_files.sync(tmp_path)
    inode = tmp_path.stat().st_ino
    assert asked == [(51, inode), ("fsync", inode)][: 1 if it_can else 2]


def test_numbers_that_half_precision_has_not_are_refused(tmp_path):
    trained = small_pronouncer()
    with torch.no_grad():
        trained.model.projection.bias[3] = 1e5
    with pytest.raises(ValueError, match="projection.bias has numbers that half precision has not"):
        trained.save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


@few
@given(st.lists(st.text("abc", min_size=1, max_size=9)), st.integers(1, 4), st.integers(1, 6))
def test_items_are_answered_in_order_in_batches_of_like_length_each_once(items, batch_size, read_ahead):
    batches = []

    def answer(batch):
        batches.append(batch)
        return [item[::-1] for item in batch]

    found = list(in_order(iter(items), lambda item: None, answer, batch_size, read_ahead))
    assert found == [(item, item[::-1]) for item in items]
    assert all(len(batch) <= batch_size for batch in batches)
    chunks = [items[i : i + read_ahead] for i in range(0, len(items), read_ahead)]
    by_length = [sorted(set(chunk), key=len) for chunk in chunks]
    assert [len(item) for batch in batches for item in batch] == [len(item) for chunk in by_length for item in chunk]


def test_a_stream_reads_no_further_ahead_than_it_says():
    taken = []
    endless = ("abcde"[i % 5] for i in count() if taken.append(i) is None)
    answers = talkative().stream(endless, read_ahead=8)
    assert len(list(islice(answers, 9))) == 9
    assert len(taken) == 16


@pytest.mark.parametrize(
    "options, message",
    [
        ({"best": 0}, "best, batch_size, read_ahead are 0, 256, 4096; give at least 1"),
        ({"batch_size": 0}, "are 1, 0, 4096; give at least 1"),
        ({"read_ahead": 0}, "are 1, 256, 0; give at least 1"),
        ({"best": 3, "beam": 2}, "best is 3 and beam 2; a beam finds as many as it is wide, so widen it"),
        ({"beam": 0}, "best is 1 and beam 0; a beam finds as many as it is wide"),
    ],
)
def test_a_stream_that_cannot_be_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        talkative().stream(["cab"], **options)


PLAIN = dict(
    head_dim=None, norm="layer", norm_eps=None, activation="relu", gated=False, linear_bias=True, relative_buckets=32,
    relative_distance=128, embedding_scale=None, embedding_norm=False, attention_scale=None, positions="sinusoidal",
)  # fmt: skip
CORE = "vocab_size max_len d_model n_heads d_ff n_layers dropout pre_norm pad_id start_id end_id".split()
AS_T5 = dict(
    positions="relative", norm="rms", norm_eps=1e-6, gated=True, linear_bias=False, attention_scale=1.0, head_dim=4,
    relative_buckets=8, relative_distance=20, embedding_scale=1.0, activation="gelu_tanh",
)  # fmt: skip


def save_as_0_1(trained, path, switches, left_out=()):
    "The file that version 0.1 wrote: the 23 fields of a side, all of them, in one flat object."
    about, tensors = model_file.describe(trained)
    for side in ("encoder", "decoder"):
        config = about[side]
        flat = {name: config[name] for name in CORE} | PLAIN | switches
        assert len(flat) == 23
        about[side] = {name: value for name, value in flat.items() if name not in left_out}
    if left_out:
        del about["projection"], about["shared"]
    model_file.write_model(path, about, tensors)


OLDEST = "norm_eps gated linear_bias relative_buckets relative_distance embedding_scale embedding_norm attention_scale"


@pytest.mark.parametrize("switches", [{}, AS_T5], ids=["the book's own", "as T5"])
def test_a_file_of_version_0_1_is_loaded(switches, tmp_path):
    ours, old, new = small_pronouncer(**switches), tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    if switches:
        torch.nn.init.normal_(ours.model.decoder.relative.weight)
    save_as_0_1(ours, old, switches)
    ours.save(new)
    found, expected = TrainedModel.load(old), TrainedModel.load(new)
    assert (found.source, found.target, found.notes) == (ours.source, ours.target, ours.notes)
    for one, other in ((found, expected), (found, ours)):
        for side in ("encoder", "decoder"):
            a, b = getattr(one.model, side), getattr(other.model, side)
            assert a.config == b.config and parts_of(a) == parts_of(b)
    kept = expected.model.state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in found.model.state_dict().items())
    assert ("decoder.relative.weight" in kept) is bool(switches)
    found.save(old)
    assert old.read_bytes() == new.read_bytes()


def test_a_file_from_before_a_field_existed_is_loaded_with_its_default(tmp_path):
    ours, path = small_pronouncer(), tmp_path / "old.safetensors"
    save_as_0_1(ours, path, {}, OLDEST.split())
    found = TrainedModel.load(path)
    assert found.model.decoder.config == ours.model.decoder.config
    source, tokens = torch.tensor([[3, 4, 2]]), torch.tensor([[1, 5, 4]])
    assert_close(found.model(source, tokens), ours.model(source, tokens), atol=0.02, rtol=0.02)


def test_the_header_of_the_shipped_model_has_the_cores_fields_alone():
    about, _ = model_file.read_model(PRONOUNCER)
    for side in ("encoder", "decoder"):
        assert {*about[side]} == {*CORE}


@pytest.mark.parametrize("switches", [{}, AS_T5, {"norm": "rms"}], ids=["the book's own", "as T5", "one"])
def test_a_header_has_the_cores_fields_and_the_parts_that_are_not_the_books_own(switches, tmp_path):
    small_pronouncer(**switches).save(tmp_path / "m")
    about, _ = model_file.read_model(tmp_path / "m")
    for side in ("encoder", "decoder"):
        assert list(about[side])[: len(CORE)] == CORE
        assert {name: about[side][name] for name in about[side] if name not in CORE} == switches


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_file_keeps_every_switch(norm, tmp_path):
    switches = dict(positions="relative", gated=True, linear_bias=False, embedding_norm=True, embedding_scale=1.0)
    switches |= dict(norm=norm, norm_eps=1e-3, attention_scale=1.0, relative_buckets=8, relative_distance=20)
    ours = small_pronouncer(**switches)
    for stack in (ours.model.encoder, ours.model.decoder):
        torch.nn.init.normal_(stack.relative.weight)
    ours.save(tmp_path / "a.safetensors")
    found = TrainedModel.load(tmp_path / "a.safetensors")
    assert found.model.encoder.config == ours.model.encoder.config
    source, tokens = torch.tensor([[3, 4, 2]]), torch.tensor([[1, 5, 4]])
    assert_close(found.model(source, tokens), ours.model(source, tokens), atol=0.02, rtol=0.02)
