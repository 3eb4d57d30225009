"""Files of ONNX give PyTorch's numbers and tokens, whatever the lengths; what cannot be exported or run is refused."""

import hashlib
import importlib.util
import json
import os
import random
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from copy import deepcopy

import jaxtyping
import numpy as np
import onnx
import pytest
import reference
import torch
from damage import telling
from fuzz_kinds import damage_onnx, use_onnx
from small import assert_near, ids, mask, seeded, whole
from torch import nn

from annotated_decoder.caching import Cache
from annotated_decoder.encoder_outputs import pad
from annotated_decoder.generation import generate
from annotated_decoder.pretrained.loading import load_pretrained
from annotated_decoder.trained import onnx_export
from annotated_decoder.trained.onnx_export import DecoderPart, EncoderPart, export_onnx
from annotated_decoder.trained.onnx_run import OnnxModel, generate_onnx, read_folder

BOUND = 1e-5    # of the largest number, in single precision
KINDS = {  # one difference at least in each part that an export could get wrong
    "pre-norm": dict(tied=True),
    "post-norm": dict(n_layers=1, pre_norm=False, norm="rms", positions="learned", activation="gelu", head_dim=5,
                      embedding_norm=True),
    "relative": dict(positions="relative", relative_buckets=4, relative_distance=5, norm="rms", gated=True,
                     activation="gelu_tanh", linear_bias=False, attention_scale=1.0, embedding_scale=1.0),
}  # fmt: skip
LENGTHS = [
    (1, 1, 0, 1), (3, 7, 0, 1), (2, 5, 0, 6), (1, 4, 1, 1), (5, 9, 1, 3), (3, 2, 4, 1), (2, 8, 5, 4), (4, 12, 11, 1)
]    # batch, source, past, new  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def without_the_checks_of_types():
    "An exporter has open lengths, which the checks of shapes would take for numbers."
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def model(seed=0, vocab_size=11, tied=False, **changes):
    "Small, in single precision, and with something in every bias."
    made = seeded(lambda: whole(tied=tied, vocab_size=vocab_size, **changes), seed, torch.float32)
    for stack in (made.encoder, made.decoder):
        if hasattr(stack, "relative"):
            with torch.no_grad():
                stack.relative.weight.copy_(torch.randn(stack.relative.weight.shape))
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    "Each kind of model and its files, exported once."
    made = {}

    def get(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            ours = model(**KINDS[kind])
            export_onnx(ours, folder)
            made[kind] = ours, folder
        return made[kind]

    return get


def near(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        theirs = theirs.numpy()
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()


def flat(kept):
    return [t for layer in sorted(kept) for t in kept[layer]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_are_the_decoder_with_a_cache(kind):
    ours, source, tokens, seen = model(**KINDS[kind]).double(), ids(3, 5), ids(3, 12, seed=1), mask(5, 2, 4)
    cache, n = Cache(), len(ours.decoder.layers)
    cross = EncoderPart(ours)(source, seen)
    past = [torch.zeros(3, t.shape[1], 0, t.shape[3], dtype=t.dtype) for t in cross]
    for chunk in tokens.split([4, 1, 1, 6], 1):
        with torch.no_grad():
            logits, *past = DecoderPart(ours)(chunk, seen, past, cross)
            expected = ours.decode(chunk, ours.encode(source, seen), seen, cache)
        assert_near(logits, expected)
        assert_near([past, [*cross]], [flat(cache.self_kv), flat(cache.cross_kv)])
    assert len(past) == len(cross) == 2 * n


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_give_the_numbers_of_pytorch_whatever_the_lengths(kind, exported):
    ours, folder = exported(kind)
    files = OnnxModel(folder)
    for batch, source_length, past_length, new in LENGTHS:
        source, tokens = ids(batch, source_length, seed=past_length), ids(batch, past_length + new, seed=new)
        seen = mask(*(1 + i % source_length for i in range(batch)), width=source_length)
        cache = Cache()
        with torch.no_grad():
            memory = ours.encode(source, seen)
            if past_length:
                ours.decode(tokens[:, :past_length], memory, seen, cache)
            past = [t.numpy() for t in flat(cache.self_kv)] or files.empty(batch)
            expected = ours.decode(tokens[:, past_length:], memory, seen, cache)
        cross = files.encode(source.numpy(), seen.numpy())
        near(cross, flat(cache.cross_kv))
        logits, longer = files.step(tokens[:, past_length:].numpy(), seen.numpy(), past, cross)
        near([logits, *longer], [expected, *flat(cache.self_kv)])


@pytest.mark.parametrize("kind", KINDS)
def test_reading_in_any_chunks_is_reading_all(kind, exported):
    ours, folder = exported(kind)
    files, source, tokens, seen = OnnxModel(folder), ids(3, 5), ids(3, 12, seed=1), mask(5, 2, 4)
    with torch.no_grad():
        expected = ours(source, tokens, seen)
    for chunks in ([12], [1] * 12, [5, 1, 6], [1, 11]):
        cross, past, found = files.encode(source.numpy(), seen.numpy()), files.empty(3), []
        for chunk in tokens.split(chunks, 1):
            logits, past = files.step(chunk.numpy(), seen.numpy(), past, cross)
            found.append(logits)
        near([np.concatenate(found, 1)], [expected])


def test_a_new_token_changes_its_own_and_later_logits_only(exported):
    _, folder = exported("pre-norm")
    files, seen = OnnxModel(folder), np.ones((1, 4), bool)
    cross, tokens = files.encode(ids(1, 4).numpy(), seen), ids(1, 7, seed=2).numpy()
    _, past = files.step(tokens[:, :3], seen, files.empty(1), cross)
    before, _ = files.step(tokens[:, 3:], seen, past, cross)
    other = tokens.copy()
    other[:, 5] = 3 + (other[:, 5] - 2) % 8
    after, _ = files.step(other[:, 3:], seen, past, cross)
    assert np.array_equal(before[:, :2], after[:, :2])
    assert (before[:, 2:] != after[:, 2:]).any(-1).all()


def test_a_hidden_source_token_changes_nothing(exported):
    _, folder = exported("relative")
    files, source, seen = OnnxModel(folder), ids(2, 6).numpy(), mask(4, 6).numpy()
    other = source.copy()
    other[0, 4:] = 3
    steps = [files.step(ids(2, 2).numpy(), seen, files.empty(2), files.encode(s, seen))[0] for s in (source, other)]
    assert np.allclose(*steps, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_decoding_gives_the_tokens_of_pytorch(kind, exported):
    ours, folder = exported(kind)
    source, seen, files = ids(6, 5), mask(5, 2, 4, 3, 1, 5), OnnxModel(folder)
    expected = generate(ours, source, seen, cache=Cache()).numpy()
    assert np.array_equal(generate_onnx(files, source.numpy(), seen.numpy()), expected)
    short = generate_onnx(files, source.numpy(), seen.numpy(), max_steps=1)
    assert np.array_equal(short, expected[:, :1])


def same_steps(ours, files, source, seen, tokens):
    "Read one token at a time, the files are as near to the exact logits as PyTorch, or within the bound."
    exactly = deepcopy(ours).double()
    wide = source.double() if source.is_floating_point() else source
    with torch.no_grad():
        theirs = ours.decode(tokens, ours.encode(source, seen), seen)
        exact = exactly.decode(tokens, exactly.encode(wide, seen), seen)
    numpy_mask, past, found = None if seen is None else seen.numpy(), files.empty(len(tokens)), []
    cross = files.encode(source.numpy(), numpy_mask)
    for token in tokens.split(1, 1):
        logits, past = files.step(token.numpy(), numpy_mask, past, cross)
        found.append(logits)
    apart = np.abs(np.concatenate(found, 1) - exact.numpy()).max()
    assert apart <= BOUND * exact.abs().max() + 4 * (theirs - exact).abs().max()


@pytest.mark.parametrize("kind", ["marian", "whisper"])
def test_checkpoints_of_others_run_as_in_pytorch(kind, tmp_path):
    reference.write(tmp_path / "theirs", kind)
    ours, rows = load_pretrained(tmp_path / "theirs"), 5
    source, seen = reference.source_for(kind, rows, torch.float32)
    export_onnx(ours, tmp_path, source=source if seen is None else None)
    files = OnnxModel(tmp_path)
    same_steps(ours, files, source, seen, reference.tokens_for(rows))
    seen_there, said = None if seen is None else seen.numpy(), set()
    for rank in range(4):    # the most probable token, the second, …, since a random model says little greedily
        found = generate_onnx(
            files, source.numpy(), seen_there, choose=lambda x, rank=rank: np.argsort(-x)[:, rank], max_steps=14
        )
        expected = generate(
            ours, source, seen, choose=lambda x, rank=rank: (-x).argsort()[:, rank], max_steps=14, cache=Cache()
        )
        assert np.array_equal(found, expected.numpy())
        said |= set(found.flatten().tolist())
    assert len(said) > 4
    if seen is None:
        with pytest.raises(ValueError, match=r"the source is \(5, 5, 23\); give \(batch, \*\[5, 24\]\), and no mask"):
            files.encode(source[:, :, 1:].numpy())


def test_a_prompt_is_read_first_and_choose_has_the_last_word(exported):
    _, folder = exported("pre-norm")
    files, source, seen = OnnxModel(folder), ids(2, 5).numpy(), np.ones((2, 5), bool)
    never_end = lambda logits: np.where(np.arange(11) == 2, -np.inf, logits).argmax(-1)  # noqa: E731
    found = generate_onnx(files, source, seen, choose=never_end)
    assert found.shape == (2, 12) and not (found == 2).any()
    prompt = np.concatenate([np.full((2, 1), 1), found[:, :4]], 1)
    assert np.array_equal(generate_onnx(files, source, seen, choose=never_end, prompt=prompt), found[:, 4:])


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    "The folder of the shipped model's files."
    folder = tmp_path_factory.mktemp("shipped")
    export_onnx(trained.model, folder, about={"target": trained.target.symbols})
    return folder


def test_the_shipped_model_says_the_same(trained, shipped):
    words = ["nebulizing", "a", "colonel", "through", "pneumonia", "jazz", "strengths", "queue", "zyzzyva", "antelope"]
    source, seen = pad([trained.example(word).source for word in words])
    files = OnnxModel(shipped)
    found = generate_onnx(files, source.numpy(), seen.numpy())
    assert np.array_equal(found, generate(trained.model, source, seen).numpy())
    assert len({row.tolist().index(2) for row in found}) > 3                    # they end at many lengths
    assert files.about["about"]["target"] == list(trained.target.symbols)


ALONE = """
import json, sys
import numpy as np, onnxruntime
folder, ids = sys.argv[1], [int(i) for i in sys.argv[2].split()]
said = json.load(open(folder + "/model.json"))
encoder, decoder = (onnxruntime.InferenceSession(f"{folder}/{name}.onnx") for name in ("encoder", "decoder"))
always = {"source_mask": np.ones((1, len(ids)), bool)}
names = [o.name for o in encoder.get_outputs()]
always |= dict(zip(names, encoder.run(None, {"source": np.array([ids])} | always)))
past = {i.name: np.zeros((1, said["n_heads"], 0, said["head_dim"]), np.float32)
        for i in decoder.get_inputs() if i.name.startswith("self_")}
token, found = said["start_id"], []
while len(found) < said["decoder"]["max_len"] and token != said["end_id"]:
    logits, *longer = decoder.run(None, {"tokens": np.array([[token]])} | always | past)
    past = dict(zip(past, longer))
    token = int(logits[0, -1].argmax())
    found.append(token)
assert not {"torch", "annotated_decoder"} & set(sys.modules)
print(*found)
"""


def test_the_loop_runs_on_onnxruntime_alone(trained, shipped):
    for word in ("colonel", "through"):
        source = trained.example(word).source
        command = [sys.executable, "-c", ALONE, str(shipped), " ".join(map(str, source))]
        done = subprocess.run(command, capture_output=True, text=True, cwd=shipped)
        assert done.returncode == 0, done.stderr
        assert [int(i) for i in done.stdout.split()] == generate(trained.model, torch.tensor([source]))[0].tolist()


def stored(path):
    "The sizes in bytes of a file's weights."
    return [len(t.raw_data) for t in onnx.load(path).graph.initializer]


def test_a_tied_weight_is_stored_once_and_nothing_is_said_or_changed(tmp_path, capfd):
    ours = model(vocab_size=5_000, n_layers=1, tied=True)
    before = {name: t.clone() for name, t in ours.state_dict().items()}
    export_onnx(ours, tmp_path)
    assert "".join(capfd.readouterr()) == ""
    assert all(torch.equal(t, before[name]) for name, t in ours.state_dict().items()) and not ours.training
    sizes, table = stored(tmp_path / "decoder.onnx"), 4 * 5_000 * 8
    assert sizes.count(table) == 1 and sum(sizes) < 1.5 * table


def test_weights_that_half_precision_holds_are_stored_so_and_others_are_not(trained, shipped, exported):
    whole = sum(path.stat().st_size for path in shipped.iterdir())
    assert whole < 2.2 * sum(p.numel() for p in trained.model.parameters())     # they were stored so before
    ours, folder = exported("pre-norm")
    assert sum(stored(folder / "encoder.onnx")) > 4 * sum(p.numel() for p in ours.encoder.parameters())


def test_a_file_says_nothing_of_this_machine(exported):
    _, folder = exported("pre-norm")
    for name in ("encoder.onnx", "decoder.onnx"):
        data = (folder / name).read_bytes()
        onnx.checker.check_model(data, full_check=True)
        assert re.findall(rb"[\w/.-]+\.py\b|site-packages|" + os.getcwd().encode(), data) == []


def test_the_json_says_what_a_loop_must_know(exported):
    ours, folder = exported("post-norm")
    said = json.loads((folder / "model.json").read_text())
    assert {i.domain: i.version for i in onnx.load(folder / "decoder.onnx").opset_import}[""] == said["opset"]
    assert (said["pad_id"], said["start_id"], said["end_id"]) == (0, 1, 2)
    assert (said["n_layers"], said["n_heads"], said["head_dim"]) == (1, 2, 5)
    assert said["encoder"] == said["decoder"] == {"vocab_size": 11, "max_len": 12}
    assert sorted(os.listdir(folder)) == ["decoder.onnx", "encoder.onnx", "model.json"]


# Refusals


def test_missing_packages_are_named_with_what_to_install(tmp_path, monkeypatch, exported):
    _, folder = exported("pre-norm")
    find = importlib.util.find_spec
    for gone, call in {
        "onnx": lambda: export_onnx(model(), tmp_path),
        "onnxscript": lambda: export_onnx(model(), tmp_path),
        "onnxruntime": lambda: OnnxModel(folder),
    }.items():
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, gone=gone: None if name == gone else find(name))
        with pytest.raises(ModuleNotFoundError, match=f"not installed: {gone}; pip install onnx onnx"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_the_export(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was exported first"))
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "decoder.onnx").mkdir(parents=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, why in (("file", "is no folder"), ("taken", "is there and is no file"), ("loop", "is no folder")):
        with pytest.raises(ValueError, match=why):
            export_onnx(model(), tmp_path / name)


class Frames(nn.Module):
    "An embedding that reads (batch, source, 6) numbers."

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(6, 8)

    def forward(self, source):
        return self.proj(source)


UNFIT = {
    "training": (lambda: model().train(), "the model is in training mode, so dropout would be exported; call model.ev"),
    "double": (lambda: model().double(), "the weights are torch.float64; call model.float()"),
    "short decoder": (lambda: model(max_len=4), "max_len of the decoder is 4; give at least 5"),
    "short encoder": (lambda: model(max_len=3), "max_len of the encoder is 3; give at least 4"),
    "frames": (
        lambda: whole(embedding=Frames()).eval(),
        "the encoder reads by Frames; give an example of its source where that is no Embedding",
    ),
}


@pytest.mark.parametrize("make, message", UNFIT.values(), ids=UNFIT)
def test_a_model_that_cannot_be_exported_is_refused(make, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        export_onnx(make(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_beyond_two_gibibytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="the encoder takes 0.0 GiB, and an ONNX file has 2; take a smaller model"):
        export_onnx(model(), tmp_path)


def test_notes_that_are_no_json_are_refused_before_the_export(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("it was exported first"))
    with pytest.raises(TypeError, match="not JSON serializable"):
        export_onnx(model(), tmp_path, about={"model": object()})


DAMAGE = {
    "a byte of the decoder": ("decoder.onnx", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "by its SHA-256"),
    "the encoder's end": ("encoder.onnx", lambda data: data[:-1], "by its SHA-256"),
    "no JSON": ("model.json", lambda data: data[1:], "has no whole model of export_onnx"),
    "other JSON": ("model.json", lambda data: b"[]", "has no whole model of export_onnx"),
    "brackets": ("model.json", lambda data: b"[" * 100_000, "has no whole model of export_onnx"),
}


@pytest.mark.parametrize("name, change, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_refused(name, change, message, exported):
    _, folder = exported("pre-norm")
    data = (folder / name).read_bytes()
    try:
        (folder / name).write_bytes(change(data))
        with pytest.raises(ValueError, match=f"{message}.*export it anew"):
            OnnxModel(folder)
        (folder / name).unlink()
        with pytest.raises(ValueError, match="has no whole model of export_onnx.*export it anew"):
            OnnxModel(folder)
    finally:
        (folder / name).write_bytes(data)
    OnnxModel(folder)


def test_an_export_that_breaks_off_leaves_whole_files_and_is_seen(tmp_path, monkeypatch):
    graphs = iter([b"old encoder", b"old decoder", b"new encoder", b"new decoder"])
    monkeypatch.setattr(onnx_export, "_export_graph", lambda *_: next(graphs))
    replace, order = os.replace, []

    def break_off(a, b):
        order.append(b.name)
        if len(order) == 5:
            raise KeyboardInterrupt
        replace(a, b)

    monkeypatch.setattr(os, "replace", break_off)
    export_onnx(model(), tmp_path)
    assert order == ["encoder.onnx", "decoder.onnx", "model.json"]
    assert read_folder(tmp_path)[1] == [b"old encoder", b"old decoder"]
    with pytest.raises(KeyboardInterrupt):
        export_onnx(model(), tmp_path)
    assert {p.name: p.read_bytes()[:3] for p in tmp_path.iterdir() if p.suffix == ".onnx"} == {
        "encoder.onnx": b"new", "decoder.onnx": b"old"
    }    # fmt: skip
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match="encoder.onnx is not the file that model.json names"):
        OnnxModel(tmp_path)


def test_requests_that_cannot_be_served_are_refused(exported):
    _, folder = exported("pre-norm")
    files, source, seen = OnnxModel(folder), ids(2, 5).numpy(), np.ones((2, 5), bool)
    hidden = seen.copy()
    hidden[1] = False
    assert np.array_equal(generate_onnx(files, source), generate_onnx(files, source, seen))
    for bad, its_mask, message in (
        (source + 9, seen, "tokens from 0 to 10"),
        (source - 9, seen, "tokens from 0 to 10"),
        (source, hidden, "a row of which the mask shows none"),
        (source, seen[:, 1:], r"the source is \(2, 5\), its mask \(2, 4\); give 1 to 12 tokens a row"),
        (source[0], seen[0], r"the source is \(5,\)"),
        (source[:, :0], seen[:, :0], r"the source is \(2, 0\)"),
        (np.tile(source, 3), np.tile(seen, 3), "give 1 to 12 tokens a row"),
    ):
        with pytest.raises(ValueError, match=message):
            files.encode(bad, its_mask)
    with pytest.raises(ValueError, match="13 positions asked for, but max_len is 12; shorten the sequence"):
        files.step(ids(2, 13).numpy(), seen, files.empty(2), files.encode(source, seen))
    for steps in (0, 13):
        with pytest.raises(ValueError, match=f"max_steps is {steps}; this decoder has positions for 1 to 12"):
            generate_onnx(files, source, seen, max_steps=steps)


WILD = [None, "2", 0, -1, 1.5, True, 10**9, 10**400, [], {}, 3]
FIELDS = [
    *[(name,) for name in ("n_layers", "n_heads", "head_dim", "pad_id", "start_id", "end_id", "encoder", "decoder")],
    *[(side, name) for side in ("encoder", "decoder") for name in ("vocab_size", "max_len")], ("source",), ("sha256",),
]    # fmt: skip


@pytest.mark.parametrize("path", FIELDS, ids=" ".join)
def test_a_json_that_lies_is_refused_in_one_sentence_or_used_as_it_says(path, exported, tmp_path):
    _, folder = exported("pre-norm")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    whole, refused = (folder / "model.json").read_text(), 0
    for value in [*WILD, "gone"]:
        said = json.loads(whole)
        *outer, last = path
        inside = said[outer[0]] if outer else said
        if value == "gone":
            del inside[last]
        else:
            inside[last] = value
        (tmp_path / "model.json").write_text(json.dumps(said))
        try:
            found = generate_onnx(OnnxModel(tmp_path), ids(2, 3).numpy())
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 500 and "; " in str(error), error
        else:
            assert found.shape[0] == 2 and found.shape[1] <= 16_384
    assert refused >= 7


def test_a_file_that_names_another_for_its_numbers_is_refused_unopened(exported, tmp_path, monkeypatch):
    import onnxruntime

    _, folder = exported("pre-norm")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    decoder = onnx.load(tmp_path / "decoder.onnx")
    onnx.save_model(decoder, tmp_path / "decoder.onnx", save_as_external_data=True, location="w", size_threshold=0)
    said = json.loads((tmp_path / "model.json").read_text())
    said["sha256"]["decoder.onnx"] = hashlib.sha256((tmp_path / "decoder.onnx").read_bytes()).hexdigest()
    (tmp_path / "model.json").write_text(json.dumps(said))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ValueError, match="decoder.onnx names another file for its numbers, which no hash covers; exp"):
        OnnxModel(tmp_path)


def test_what_onnxruntime_says_steers_no_terminal(exported, monkeypatch):
    import onnxruntime

    def hostile(*_, **options):
        raise RuntimeError("\x1b[31mno \x07such\n\r\x9b2J input: '" + "x" * 10_000)

    monkeypatch.setattr(onnxruntime, "InferenceSession", hostile)
    with pytest.raises(ValueError, match=r"what model.json says \(\\x1b\[31mno .*; export it anew$") as refused:
        OnnxModel(exported("pre-norm")[1])
    said = str(refused.value)
    assert said.isprintable() and len(said) < 600


def test_onnxruntime_logs_nothing_to_the_terminal(exported, tmp_path, capfd):
    shutil.copytree(exported("pre-norm")[1], tmp_path, dirs_exist_ok=True)
    decoder = onnx.load(tmp_path / "decoder.onnx")
    decoder.graph.output[1].type.tensor_type.shape.dim.pop()
    onnx.save_model(decoder, tmp_path / "decoder.onnx")
    said = json.loads((tmp_path / "model.json").read_text())
    said["sha256"]["decoder.onnx"] = hashlib.sha256((tmp_path / "decoder.onnx").read_bytes()).hexdigest()
    (tmp_path / "model.json").write_text(json.dumps(said))
    capfd.readouterr()
    with suppress(ValueError):
        OnnxModel(tmp_path)
    assert capfd.readouterr().err == ""


def test_damaged_folders_are_used_or_refused_in_one_sentence(exported, tmp_path):
    for number in range(36):
        shutil.copytree(exported("post-norm")[1], folder := tmp_path / str(number))
        damage_onnx(random.Random(number), folder)
        with telling():
            use_onnx(folder)


@pytest.mark.parametrize("name", ["model.json", "encoder.onnx", "decoder.onnx"])
def test_a_pipe_in_the_folder_is_not_waited_for(name, exported, tmp_path):
    _, folder = exported("pre-norm")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"no whole model of export_onnx .{name} is not there, or no file.; export it"):
        OnnxModel(tmp_path)


def test_a_step_without_a_finite_logit_is_refused(exported, monkeypatch):
    _, folder = exported("pre-norm")
    files, step = OnnxModel(folder), OnnxModel.step

    def broken(self, *arguments):
        logits, past = step(self, *arguments)
        logits[1, -1, 4] = np.nan
        return logits, past

    monkeypatch.setattr(OnnxModel, "step", broken)
    with pytest.raises(ValueError, match=r"step 1: rows \[1\] have NaN, \+∞ or only −∞ for logits; look"):
        generate_onnx(files, ids(3, 4).numpy())
