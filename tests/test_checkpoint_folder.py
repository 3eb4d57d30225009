"""A checkpoint's folder that cannot be loaded is refused by name, before memory is taken, and none of it is run."""

import json
import os
import pickle
import shutil
import sys
import time
from functools import partial

import jaxtyping
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import grown
from safetensors.torch import load_file, save_file
from test_bad_input import refusal

from annotated_decoder.pretrained import loading
from annotated_decoder.pretrained.folder import MOST_TEXT
from annotated_decoder.pretrained.loading import generation_settings, load_pretrained

MANY = os.environ.get("HYPOTHESIS_PROFILE") == "many"
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(autouse=True, scope="module")
def without_the_checks_of_types():
    "The package as its users have it."
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Each kind of checkpoint in one file, and one in several."
    home = tmp_path_factory.mktemp("home")
    for kind in reference.KINDS:
        reference.write(home / kind, kind)
    reference.write(home / "shards", "bart", shards="10KB")
    return home


@pytest.fixture
def folder(home, tmp_path):
    "A whole checkpoint of BART, to be damaged."
    return shutil.copytree(home / "bart", tmp_path / "bart")


def set_fields(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def set_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def refused(folder, *parts):
    return refusal(ValueError, lambda: load_pretrained(folder), str(folder), *parts)


# The configuration

FIELDS = {  # fields of config.json, and what the message says of them
    "another family": ({"model_type": "gpt2"}, "model_type is 'gpt2'", "known are bart, ", ", whisper"),
    "no family": ({"model_type": None}, "model_type is None", "known are"),
    "a family that is a list": ({"model_type": ["bart"]}, "model_type is ['bart']", "known are"),
    "pre-norm": ({"normalize_before": True}, "normalize_before is True", "only False is built", "another"),
    "a norm at the end": ({"add_final_layer_norm": True}, "add_final_layer_norm is True", "only False"),
    "no norm after the sum": ({"normalize_embedding": False}, "normalize_embedding is False", "only True"),
    "positions computed": ({"static_position_embeddings": True}, "static_position_embeddings is True", "only False"),
    "a bias more": ({"add_bias_logits": True}, "add_bias_logits is True", "only False"),
    "another offset": ({"extra_pos_embeddings": 4}, "extra_pos_embeddings is 4", "only 2"),
    "no encoder": ({"is_encoder_decoder": False}, "is_encoder_decoder is False", "only True"),
    "quantized": ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}", "only None"),
    "code of its own": ({"auto_map": {"AutoModel": "modeling.Mine"}}, "auto_map is {", "only None"),
    "an activation": ({"activation_function": "quick_gelu"}, "activation_function is 'quick_gelu'", "known are relu"),
    "an activation that is a list": ({"activation_function": ["gelu"]}, "activation_function is ['gelu']", "known"),
    "a scale of another type": ({"scale_embedding": "yes"}, "scale_embedding is 'yes'", "known are True, False"),
    "a width of another type": ({"d_model": "16"}, "d_model is '16'", "a whole number", "from 1 to"),
    "a width that is true": ({"d_model": True}, "d_model is True", "a whole number"),
    "a fraction of layers": ({"encoder_layers": 2.5}, "encoder_layers is 2.5", "a whole number from 1 to 1000"),
    "no layers": ({"decoder_layers": 0}, "decoder_layers is 0", "from 1 to 1000"),
    "many layers": ({"decoder_layers": 1000}, "asks for 1000 layers", "tensors are stored", "get the folder anew"),
    "layers below 0": ({"decoder_layers": -1}, "decoder_layers is -1", "a whole number"),
    "a million layers": ({"decoder_layers": 10**6}, "decoder_layers is 1000000", "to 1000"),
    "a width beyond belief": ({"d_model": 10**12}, "d_model is 1000000000000", "to 10000000"),
    "positions beyond belief": ({"max_position_embeddings": 10**6}, "max_position_embeddings is 1000000", "65536"),
    "heads that do not divide": ({"decoder_attention_heads": 3}, "3 heads do not divide d_model = 16", "give"),
    "a dropout of 1": ({"dropout": 1.0}, "dropout is 1.0", "below 1"),
    "a dropout that is no number": ({"dropout": float("nan")}, "dropout is nan", "must be a number"),
    "a token too high": ({"decoder_start_token_id": 47}, "decoder_start_token_id is 47", "from 0 to 46"),
    "two end symbols": ({"eos_token_id": [47, 3]}, "eos_token_id is 47", "a whole number"),
    "a wider layer than stored": ({"decoder_ffn_dim": 21}, "fc1.weight is F32 (20, 16)", "(21, 16)"),
    "more layers than stored": ({"encoder_layers": 4}, "no file has model.encoder.layers.3.", "get the folder anew"),
    "fewer layers than stored": ({"encoder_layers": 2}, "has model.encoder.layers.2.", "which has no place in BART"),
    "a larger vocabulary": ({"vocab_size": 10**7}, "model.shared.weight is F32 (47, 16)", "(10000000, 16)"),
    "another family's": ({"model_type": "marian", "normalize_embedding": None}, "is F32 (34, 16)", "(32, 16)"),
    "a head of its own that is not there": ({"tie_word_embeddings": False}, "no file has lm_head.weight", "anew"),
}


@pytest.mark.parametrize("fields, parts", [(f, p) for f, *p in FIELDS.values()], ids=FIELDS)
def test_a_field_that_cannot_work_is_refused(fields, parts, folder):
    settings_too = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(
        json.dumps({k: v for k, v in settings_too.items() if k not in fields})
    )
    set_fields(folder / CONFIG, **fields)
    assert len(refused(folder, *parts)) < 500


OTHERS = {
    "T5: a gate of a kind that is not built": ("t5", {"feed_forward_proj": "gated-swish"}, "gated-swish"),
    "T5: a gate that is denied": ("t5, gated", {"is_gated_act": False}, "is_gated_act is False", "only True"),
    "T5: no gate where one is said": ("t5", {"feed_forward_proj": "gated-gelu", "is_gated_act": None}, "wi_1.weight"),
    "T5: too few buckets": ("t5", {"relative_attention_num_buckets": 2}, "num_buckets is 2", "from 4"),
    "T5: a distance too small": ("t5", {"relative_attention_max_distance": 4}, "max_distance is 4", "from 5"),
    "T5: an epsilon below 0": ("t5", {"layer_norm_epsilon": -1.0}, "layer_norm_epsilon is -1.0", "must be a number"),
    "T5: a scale that is no truth": ("t5", {"scale_decoder_outputs": "no"}, "decoder_outputs is 'no'", "True, False"),
    "Marian: unshared": ("marian", {"share_encoder_decoder_embeddings": False}, "model.encoder.embed_tokens.weight"),
    "Marian: shared, perhaps": ("marian", {"share_encoder_decoder_embeddings": "yes"}, "'yes'", "not built here"),
    "Marian: positions by the million": ("marian", {"max_position_embeddings": 10**8}, "100000000", "to 65536"),
    "Marian: an odd width": ("marian", dict(d_model=17, encoder_attention_heads=1, decoder_attention_heads=1), "17"),
    "Whisper: other bins": ("whisper", {"num_mel_bins": 6}, "conv1.weight is F32 (16, 5, 3)", "(16, 6, 3)"),
    "Whisper: a scale": ("whisper", {"scale_embedding": True}, "scale_embedding is True", "only False"),
}


@pytest.mark.parametrize("kind, fields, parts", [(k, f, p) for k, f, *p in OTHERS.values()], ids=OTHERS)
def test_a_field_of_another_family_that_cannot_work_is_refused(kind, fields, parts, home, tmp_path):
    folder = shutil.copytree(home / kind, tmp_path / "copy")
    set_fields(folder / CONFIG, **fields)
    refused(folder, *parts)


TEXTS = {
    "nothing": (b"", "is no JSON"),
    "half": (b'{"model_type": "bart"', "is no JSON"),
    "a list": (b"[]", "holds a list and no object"),
    "a word": (b'"bart"', "holds a str and no object"),
    "no text": (b"\xff\xfe\x00", "is UTF-16, and JSON is UTF-8"),
    "brackets without end": (b"[" * 10**5, "is no JSON"),
    "digits without end": (b'{"d_model": ' + b"9" * 10**5 + b"}", "is no JSON"),
    "longer than believed": (b" " * (MOST_TEXT + 1), f"over {MOST_TEXT}"),
}


@pytest.mark.parametrize("name", [CONFIG, "generation_config.json"])
@pytest.mark.parametrize("text, part", TEXTS.values(), ids=TEXTS)
def test_a_text_that_is_no_object_is_refused(name, text, part, folder):
    (folder / name).write_bytes(text)
    refused(folder, name, part, "get it anew")
    refusal(ValueError, lambda: generation_settings(folder), name, part, "get it anew")


@pytest.mark.parametrize("name", [CONFIG, "generation_config.json", WEIGHTS])
def test_a_device_is_no_file(name, folder):
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    refused(folder, f"{name} is no regular file", "get it anew")


def test_a_folder_without_a_configuration_is_refused(folder):
    (folder / CONFIG).unlink()
    refused(folder, "config.json is missing", "save_pretrained")


# The weights

BROKEN = {  # what is done to the bytes of model.safetensors
    "nothing": lambda data, n: b"",
    "seven bytes": lambda data, n: data[:7],
    "no header": lambda data, n: data[:8],
    "half a header": lambda data, n: data[: 8 + n // 2],
    "no numbers": lambda data, n: data[: 8 + n],
    "a number less": lambda data, n: data[:-4],
    "a number more": lambda data, n: data + bytes(4),
    "a header of 2^63 bytes": lambda data, n: (2**63).to_bytes(8, "little") + data[8:],
    "a header of the whole file": lambda data, n: (len(data) - 8).to_bytes(8, "little") + data[8:],
    "a header of nothing": lambda data, n: bytes(8) + data[8:],
    "a larger shape": lambda data, n: data.replace(b"[47,16]", b"[97,16]"),
    "another type": lambda data, n: data.replace(b'"F32"', b'"F64"'),
    "an unknown type": lambda data, n: data.replace(b'"F32"', b'"F99"'),
    "of numpy's": lambda data, n: b"\x93NUMPY" + data,
    "a pickle": lambda data, n: pickle.dumps({"model.shared.weight": [1.0]}),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_header_that_lies_is_refused(change, folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(change(data, int.from_bytes(data[:8], "little")))
    refused(folder, WEIGHTS, "anew")


def test_a_header_longer_than_believed_is_refused(folder):
    length = MOST_TEXT + 8
    (folder / WEIGHTS).write_bytes(length.to_bytes(8, "little") + b"{}".ljust(length))
    refused(folder, WEIGHTS, f"a header that claims {length}")


TENSORS = {  # what is done to the tensors, and what the message says
    "one missing": (lambda t: t.pop("model.decoder.layers.1.fc1.bias"), "no file has model.decoder.layers.1.fc1.bias"),
    "one too many": (lambda t: t.update(extra=torch.zeros(1)), "has extra, which has no place in BART"),
    "a layer too many": (
        lambda t: t.update({"model.decoder.layers.2.fc1.bias": torch.zeros(20)}),
        "has model.decoder.layers.2.fc1.bias",
    ),
    "of a classifier": (lambda t: t.update({"classification_head.dense.bias": torch.zeros(3)}), "classification_head"),
    "of another shape": (
        lambda t: t.update({"model.decoder.layers.1.fc1.weight": torch.zeros(16, 20)}),
        "fc1.weight is F32 (16, 20)",
    ),
    "whole numbers": (
        lambda t: t.update({"model.encoder.layers.0.fc2.bias": torch.zeros(16, dtype=torch.int8)}),
        "fc2.bias is I8 (16,)",
    ),
    "no offset": (
        lambda t: t.update({"model.encoder.embed_positions.weight": torch.zeros(32, 16)}),
        "embed_positions.weight is F32 (32, 16), and config.json needs F64 or F32 or F16 or BF16 (34, 16)",
    ),
    "none at all": (lambda t: t.clear(), "0 tensors are stored"),
}


@pytest.mark.parametrize("change, part", TENSORS.values(), ids=TENSORS)
def test_tensors_that_do_not_fit_are_refused_before_any_is_read(change, part, folder, monkeypatch):
    set_tensors(folder, change)
    monkeypatch.setattr(loading, "_fill", lambda *a: pytest.fail("numbers were read"))
    refused(folder, part)


def test_weights_for_another_library_are_refused(folder):
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"format": "mlx"})
    refused(folder, WEIGHTS, "written for 'mlx'", "save it anew")


# Shards


@pytest.mark.parametrize(
    "weight_map, part",
    [
        (None, "weight_map is None; it is no object"),
        ([], "weight_map is []; it is no object"),
        ({}, "weight_map is {}; it is no object"),
        ({"model.shared.weight": 3}, "names the file 3"),
        *(
            ({"model.shared.weight": name}, f"names the file {name!r}")
            for name in ("../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".safetensors", "x.bin", "")
        ),
        ({"model.shared.weight": "gone.safetensors"}, "names the file 'gone.safetensors'"),
        ({"model.shared.weight": "C:\\x.safetensors"}, "names the file"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(weight_map, part, home, tmp_path):
    folder = shutil.copytree(home / "shards", tmp_path / "copy")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, part)


@pytest.mark.parametrize("change", ["less", "more", "elsewhere"])
def test_an_index_and_files_that_disagree_are_refused(change, home, tmp_path):
    folder = shutil.copytree(home / "shards", tmp_path / "copy")
    index = json.loads((folder / INDEX).read_text())
    where, name = index["weight_map"], "model.decoder.layers.1.fc1.weight"
    other = next(file for file in where.values() if file != where[name])
    where |= {"less": {}, "more": {"model.extra": other}, "elsewhere": {name: other}}[change]
    if change == "less":
        del where[name]
    (folder / INDEX).write_text(json.dumps(index))
    refused(folder, INDEX, "disagree about", "get the folder anew")


# Pickles and code


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("name", ["adapter_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused_and_not_opened(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    refused(folder, name, "is a pickle, which can run code", "save_pretrained() writes model.safetensors")
    assert not (folder / "exploded").exists()


def test_no_code_of_a_checkpoint_is_run(folder, monkeypatch):
    for name in ("modeling_bart.py", "configuration_bart.py", "__init__.py", "tokenization.py"):
        (folder / name).write_text("raise SystemExit('it was run')")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))    # beside whole weights

    def refuse(*args, **options):
        raise AssertionError("a pickle was read")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    before = set(sys.modules)
    assert load_pretrained(folder).decoder.config.n_layers == 2
    generation_settings(folder)
    assert not {name for name in set(sys.modules) - before if "bart" in name}


# Other arguments


@pytest.mark.parametrize("name", ["", "no/such/folder", "../there", "~/folder", "a b", "owner/name@", "x\0y"])
def test_what_is_no_folder_and_no_id_is_refused(name):
    refusal(ValueError, lambda: load_pretrained(name), repr(name), "no folder and no id of a model", "owner/name")


def test_a_type_that_is_not_floating_point_is_refused(folder):
    refusal(ValueError, lambda: load_pretrained(folder, dtype=torch.int64), "dtype is torch.int64", "torch.float32")


# Settings

ASKED = {
    "a beam that samples": ({"do_sample": True, "num_beams": 4}, "num_beams is 4", "only 1 is built"),
    "a penalty on the source": ({"encoder_repetition_penalty": 1.2}, "encoder_repetition_penalty is 1.2", "only 1 is"),
    "no beam": ({"num_beams": 0}, "num_beams is 0", "from 1 to 1000"),
    "a beam beyond belief": ({"num_beams": 10**6}, "num_beams is 1000000", "from 1 to 1000"),
    "half a beam": ({"num_beams": 1.5}, "num_beams is 1.5", "a whole number"),
    "a penalty that is no number": ({"length_penalty": "1"}, "length_penalty is '1'", "a number"),
    "a penalty out of range": ({"length_penalty": 1e9}, "length_penalty is 1000000000.0", "-10.0 to 10.0"),
    "an early end": ({"early_stopping": "always"}, "early_stopping is 'always'", "never"),
    "shares given on, perhaps": ({"renormalize_logits": "yes"}, "renormalize_logits is 'yes'", "True, False"),
    "no room": ({"max_length": 1}, "the prompt has 1 tokens", "max_length, which counts them, is 1"),
    "a limit that is no number": ({"max_length": "long"}, "max_length is 'long'", "a whole number"),
    "words without tokens": ({"bad_words_ids": [[3], []]}, "bad_words_ids is [[3], []]", "a list of words"),
    "words that are none": ({"bad_words_ids": 3}, "bad_words_ids is 3", "a list of words"),
    "a token too high": ({"suppress_tokens": [47]}, "suppress_tokens is [47]", "below 47"),
    "two first tokens": ({"forced_bos_token_id": [2, 3]}, "forced_bos_token_id is [2, 3]", "one token"),
    "a first token below 0": ({"forced_bos_token_id": -1}, "forced_bos_token_id is -1", "one token"),
    "a prompt with a gap": ({"forced_decoder_ids": [[2, 3]]}, "forced_decoder_ids is [[2, 3]]", "[[1, token]"),
    "a prompt that is none": ({"forced_decoder_ids": "en"}, "forced_decoder_ids is 'en'", "[[1, token]"),
    "a prompt too high": ({"forced_decoder_ids": [[1, 99]]}, "prompt is [2, 99]", "below 47"),
    "a task that is none": ({"task": "sing", "task_to_id": {"translate": 4}}, "the task 'sing'", "known are translate"),
    "times without tokens": ({"return_timestamps": True}, "no_timestamps_token_id", "leave out timestamps"),
}


@pytest.mark.parametrize("fields, parts", [(f, p) for f, *p in ASKED.values()], ids=ASKED)
def test_settings_that_are_not_built_are_refused(fields, parts, folder):
    set_fields(folder / "generation_config.json", **fields)
    refusal(ValueError, lambda: generation_settings(folder), "generation_config.json", *parts)


def test_a_whole_number_with_a_point_is_the_whole_number(folder):
    fields = dict(num_beams=4, max_length=12, eos_token_id=3, suppress_tokens=[5, 6])
    set_fields(folder / "generation_config.json", **fields)
    plain, width = generation_settings(folder), json.loads((folder / CONFIG).read_text())["d_model"]
    pointed = fields | dict(num_beams=4.0, max_length=12.0, eos_token_id=3.0, suppress_tokens=[5.0, 6.0])
    set_fields(folder / "generation_config.json", **pointed)
    set_fields(folder / CONFIG, d_model=float(width), encoder_layers=3.0)
    assert generation_settings(folder) == plain and type(generation_settings(folder).width) is int
    assert load_pretrained(folder).decoder.config.d_model == width


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\n\0\x07" + "b" * 300, "../" * 100], ids=len)
def test_a_long_name_is_cut_in_the_middle_and_stays_on_the_line(name, home, tmp_path):
    folder = shutil.copytree(home / "shards", tmp_path / "copy")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": f"{name}.safetensors"}}))
    message = refused(folder, "names the file", "...", "none of this folder's")
    assert message.isprintable() and len(message) < 300 and message.count(str(folder)) == 1


def test_a_folder_with_odd_letters_is_named_on_one_line(folder):
    odd = folder.rename(folder.with_name("a\nb"))
    (odd / CONFIG).write_text("[")
    refusal(ValueError, lambda: load_pretrained(odd), "a\\nb/config.json is no JSON")


def test_a_language_that_is_not_there_is_refused(folder):
    refusal(ValueError, lambda: generation_settings(folder, language="en"), "lang_to_id lacks", "'en'", "none")


# Memory and damage


def test_nothing_large_is_made_for_what_is_refused(home, tmp_path):
    load_pretrained(home / "marian")
    for kind, fields in {
        "bart": dict(vocab_size=10**7, d_model=10**6, max_position_embeddings=60_000),
        "marian": dict(d_model=10**6, encoder_ffn_dim=10**7, max_position_embeddings=60_000),
        "whisper": dict(d_model=10**6, max_source_positions=60_000),
        "t5": dict(d_model=10**6, vocab_size=10**7, relative_attention_num_buckets=10**6),
    }.items():
        folder = shutil.copytree(home / kind, tmp_path / kind)
        set_fields(folder / CONFIG, **fields)
        assert grown(refusal, ValueError, partial(load_pretrained, folder)) < 50    # MiB


VALUES = [None, True, False, 0, -1, 1, 2, 3, 4, 8, 1000, 10**6, 10**7, 2**63, 0.5, 1e308, float("nan"), "", "x", "gelu"]
VALUES += [[], {}, [1], [[1, 2]], {"a": 1}, "a" * 10_000, [[3]] * 10_000, [-1] * 10_000]


@st.composite
def damage(draw):
    "A function from the bytes of a file to those of a damaged one."
    kind = draw(st.sampled_from(["bits", "cut", "more", "length", "field", "field"]))
    place, bit = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7))
    value, near = draw(st.sampled_from(VALUES)), draw(st.booleans())
    length = draw(st.one_of(st.integers(0, 5000), st.integers(0, 63).map(lambda n: 2**n), st.just(2**64 - 1)))

    def apply(data, is_json):
        if kind == "bits":
            at = int(place * (min(len(data), 2000) if near else len(data)))
            return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        if kind in ("cut", "more"):
            return data[: int(place * len(data))] if kind == "cut" else data + bytes([bit] * (bit + 1))
        if kind == "length":
            return length.to_bytes(8, "little") + data[8:]
        n = 0 if is_json else int.from_bytes(data[:8], "little")
        about = json.loads(data if is_json else data[8 : 8 + n])
        inside = about
        while isinstance(inner := inside[key := list(inside)[int(place * len(inside))]], dict) and inner and near:
            inside = inner
        if bit == 0:
            del inside[key]
        else:
            inside[key] = value
        text = json.dumps(about).encode()
        return text if is_json else len(text).to_bytes(8, "little") + text + data[8 + n :]

    return apply


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    "The files of each checkpoint, and a folder to damage them in."
    files = {path.name: {file.name: file.read_bytes() for file in path.iterdir()} for path in home.iterdir()}
    for kind in files:
        load_pretrained(home / kind)    # so that all that is imported or cached once is there
    return Whole(files, tmp_path_factory.mktemp("damaged"))


class Whole:    # a class, so that a failure does not print all bytes
    def __init__(self, files, folder):
        self.files, self.folder = files, folder


@settings(max_examples=(20 if MANY else 6) * settings.default.max_examples)
@given(st.data())
def test_damage_is_refused_by_name_or_does_no_harm(whole, data):
    files, folder = whole.files, whole.folder
    kind = data.draw(st.sampled_from(sorted(files)))
    for path in folder.iterdir():
        path.unlink()
    name = data.draw(st.sampled_from(sorted(files[kind])))
    for file, content in files[kind].items():
        if file == name:
            for change in data.draw(st.lists(damage(), min_size=1, max_size=2)):
                try:
                    content = change(content, name.endswith(".json"))
                except (ValueError, IndexError, KeyError, AttributeError):
                    pass    # the first damage left nothing for the second
        (folder / file).write_bytes(content)

    def load():
        for call in (load_pretrained, generation_settings):
            try:
                call(folder)
            except (ValueError, OSError) as error:
                assert str(folder) in str(error) and "\n" not in str(error) and len(str(error)) < 1_000, error

    start = time.process_time()
    assert grown(load) < 100    # MiB
    assert time.process_time() - start < 5
