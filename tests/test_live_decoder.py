"""The decoder that runs in a page, on Node: what it says is what the package says."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from golden_steps import golden, words_of

from annotated_decoder.decoder import StackConfig
from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.pronunciation.model import PRONOUNCER
from annotated_decoder.trained.model_file import TrainedModel

HERE = Path(__file__).resolve().parent
DECODER = HERE.parent / "src" / "annotated_decoder" / "teaching" / "pieces" / "decoder.js"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    not NODE and os.environ.get("NODE") != "required", reason="there is no Node; in Debian: apt-get install nodejs"
)


def run_on_node(folder, model, told, *options):
    "The tests in decoder.test.mjs, against a model's file and what the package says of it."
    (folder / "golden.json").write_text(json.dumps(told))
    shutil.copy(DECODER, folder / "decoder.mjs")    # by this name Node takes it for a module
    given = {"MODEL": str(model), "GOLDEN": str(folder / "golden.json"), "MODULE": str(folder / "decoder.mjs")}
    command = [NODE, "--test", "--test-reporter=tap", *options, str(HERE / "decoder.test.mjs")]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | given | {"WORDS": str(len(told))})


def test_a_thousand_words_are_said_as_the_package_says_them(tmp_path):
    words = words_of()
    found = run_on_node(tmp_path, PRONOUNCER, golden(TrainedModel.load(PRONOUNCER), words))
    assert len(words) >= 1_000 and found.returncode == 0, found.stdout + found.stderr
    assert f"{len(words)} words, largest difference" in found.stdout and "# fail 0" in found.stdout


def test_a_model_of_another_shape_is_run_from_its_header(tmp_path):
    "Post-norm, an untied head, another number of layers and heads, and weights that nobody trained."
    shipped, torch_state = TrainedModel.load(PRONOUNCER), torch.get_rng_state()
    torch.manual_seed(1)
    shape = dict(d_model=24, n_heads=3, d_ff=40, max_len=14, dropout=0.0, pre_norm=False)
    made = EncoderDecoder.of(
        StackConfig(vocab_size=len(shipped.source), n_layers=1, **shape),
        StackConfig(vocab_size=len(shipped.target), n_layers=2, **shape), tied=False,
    )    # fmt: skip
    torch.set_rng_state(torch_state)
    path = tmp_path / "other.safetensors"
    TrainedModel(made, shipped.source, shipped.target, {}).save(path)
    told = golden(TrainedModel.load(path), [word for word in words_of(40) if len(word) < 14])
    found = run_on_node(tmp_path, path, told, "--test-name-pattern=are the package")
    assert found.returncode == 0 and "# pass 1" in found.stdout, found.stdout + found.stderr
