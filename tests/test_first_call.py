"""What torch was told before the first call does not stay in the model, in a thread or another process neither."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from speller import small_pronouncer
from torch.nn.functional import cross_entropy

from annotated_decoder.pretrained.modes import plain_mode
from annotated_decoder.pronunciation import model as model_room
from annotated_decoder.pronunciation import pronounce, saying
from annotated_decoder.pronunciation.model import PRONOUNCER, Pronouncer, pronouncer, steps
from annotated_decoder.trained.model_file import TrainedModel

SRC = str(Path(saying.__file__).parents[2])


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


@contextmanager
def default_device(name):
    torch.set_default_device(name)
    yield
    torch.set_default_device(None)


MODES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "a device around": lambda: torch.device("meta"),
    "a default device": lambda: default_device("meta"),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)


def assert_plain(trained, others):
    "The model is what it is without any mode, and can be trained."
    state, expected = trained.model.state_dict(), others.model.state_dict()
    for name, tensor in [*expected.items(), *others.model.named_buffers()]:
        found = state[name] if name in state else trained.model.get_buffer(name)
        assert found.dtype is tensor.dtype and torch.equal(found, tensor) and not found.is_inference()
    copy = deepcopy(trained.model)
    optimizer = torch.optim.SGD(copy.parameters(), lr=0.1)
    example = trained.example("bed", [trained.target.symbols[3]])
    source, target = torch.tensor([example.source]), torch.tensor([example.target])
    cross_entropy(copy(source, target)[0], target[0]).backward()
    optimizer.step()
    assert not torch.equal(copy.projection.weight, trained.model.projection.weight)


@pytest.fixture
def first(monkeypatch):
    "As in a new process: nothing has been loaded."
    for module, name in ((model_room, "pronouncer"), (saying, "speaker"), (saying, "_in_batches")):
        getattr(module, name).cache_clear()
    yield
    model_room.pronouncer.cache_clear()


@every_mode
def test_the_shipped_model_is_the_same_whatever_the_first_call_met(first, mode):
    before = torch.get_default_dtype()
    with mode():
        pronounce("nebulizing")
        found = pronouncer()
    assert torch.get_default_dtype() is before
    assert_plain(found, TrainedModel.load(PRONOUNCER))
    assert found.transcribe(["nebulizing"]) == {"nebulizing": pronounce("nebulizing")}
    assert [step.phoneme for step in steps("nebulizing")][:-1] == pronounce("nebulizing")


@every_mode
def test_a_file_is_loaded_the_same_in_every_mode(tmp_path, mode):
    small_pronouncer(tied=False).save(tmp_path / "m")
    plain = TrainedModel.load(tmp_path / "m")
    with mode():
        found = TrainedModel.load(tmp_path / "m")
    assert_plain(found, plain)


@every_mode
def test_a_checkpoint_is_loaded_the_same_in_every_mode(tmp_path, mode):
    from transformers import MarianConfig, MarianMTModel

    from annotated_decoder.pretrained import load_pretrained

    small = dict(encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16)
    layers = dict(d_model=8, encoder_layers=1, decoder_layers=1, max_position_embeddings=16)
    ids = dict(pad_token_id=9, eos_token_id=0, decoder_start_token_id=9, forced_eos_token_id=0)
    MarianMTModel(MarianConfig(vocab_size=10, **small, **layers, **ids)).save_pretrained(tmp_path)
    plain = load_pretrained(tmp_path)
    with mode():
        found = load_pretrained(tmp_path)
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(made, kind)()) for made in (found, plain))
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert ours[name].dtype is tensor.dtype and torch.equal(ours[name], tensor)
            assert not ours[name].is_inference() and ours[name].requires_grad == tensor.requires_grad


def test_the_callers_modes_are_put_back_after_an_error_too():
    with default_dtype(torch.bfloat16), torch.device("meta"), torch.inference_mode():
        with pytest.raises(KeyError), plain_mode():
            made = torch.zeros(1)
            raise KeyError
        after = torch.zeros(1)
    assert (made.dtype, made.device.type, made.is_inference()) == (torch.float32, "cpu", False)
    assert (after.dtype, after.device.type, after.is_inference()) == (torch.bfloat16, "meta", True)


def test_many_threads_at_once_leave_the_callers_precision_as_it_was(tmp_path):
    small_pronouncer().save(tmp_path / "m")
    with default_dtype(torch.float64):
        with ThreadPoolExecutor(8) as eight:
            found = list(eight.map(lambda _: TrainedModel.load(tmp_path / "m"), range(24)))
        assert torch.get_default_dtype() is torch.float64
    plain = TrainedModel.load(tmp_path / "m")
    for loaded in found[::8]:
        assert_plain(loaded, plain)


def test_the_first_call_may_come_from_a_thread(first):
    with ThreadPoolExecutor(1) as one:
        said = one.submit(lambda: (pronounce("nebulizing"), pronouncer())).result()
    assert said == (pronounce("nebulizing"), pronouncer()) and type(said[1]) is Pronouncer
    assert_plain(said[1], TrainedModel.load(PRONOUNCER))


PROCESSES = """
import multiprocessing, sys, torch
from itertools import product
from annotated_decoder.pronunciation import pronounce, pronouncer

WORDS = ["".join(letters) for letters in product("bcdf", "aeiou", "bdgm")]

def say(n_threads):
    said = pronounce("nebulizing")    # in NumPy: it may use what threads it likes
    torch.set_num_threads(n_threads)
    return said, pronouncer().transcribe(WORDS)

if __name__ == "__main__":
    here = say(2)
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        assert pool.map_async(say, [1 if sys.argv[1] == "fork" else 2]).get(60) == [here]
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_started_by_spawn_or_with_one_thread_says_the_same(tmp_path, method):
    (tmp_path / "say.py").write_text(PROCESSES)
    run = [sys.executable, str(tmp_path / "say.py"), method]
    done = subprocess.run(run, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": SRC})
    assert done.returncode == 0, done.stderr
