"""Several processes end at the weights of one, wherever they are killed and however many go on."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from group import Group
from speller import examples_of, small_pronouncer

from annotated_decoder.scaling_out import save_shards
from annotated_decoder.trained import together
from annotated_decoder.trained.checkpoints import Checkpoints, hold, train_resumably
from annotated_decoder.trained.meeting import processes
from annotated_decoder.trained.resuming import TrainingRun
from annotated_decoder.trained.together import train_together
from annotated_decoder.training import TrainingConfig, loss_of, train

EVERY = 3
CONFIG = TrainingConfig(epochs=5, letters_per_batch=12)    # 15 steps, of 1 to 4 words


def new_model(dropout=0.0, dtype=torch.float64, **changes):
    trained = small_pronouncer(**{"dropout": dropout, "d_model": 8, "d_ff": 16} | changes)
    trained.model.to(dtype)
    return trained


def killed_in(rank, step, by=signal.SIGKILL):
    "The loss, on the way to which this process gets a signal in this step."

    def objective(model, batch, config, number):
        if (dist.get_rank(), number // dist.get_world_size()) == (rank, step):
            os.kill(os.getpid(), by)
        return loss_of(model, batch, config, number)

    return objective


def work(folder, out, how="ddp", killed=None, killed_in_save_by=None, **changes):
    "A training, and what it gives; it is killed in a step, or when its second checkpoint is written and has no name."
    saves = []

    def save(part, *state):
        save_shards(part, *state)
        saves.append(part)
        if len(saves) == 2 and dist.get_rank() == killed_in_save_by:
            os.kill(os.getpid(), signal.SIGKILL)

    together.save_shards = save
    with processes(limit=20):
        rank, trained = dist.get_rank(), new_model(**changes)
        checkpoints = Checkpoints(folder[rank] if isinstance(folder, list) else folder, EVERY)
        objective = killed_in(*killed) if killed else loss_of
        rest = dict(how=how, objective=objective, progress=False)
        losses = train_together(trained.model, examples_of(trained), CONFIG, checkpoints, **rest)
        torch.save((losses, trained.model.state_dict(), trained.model.training), out / f"{rank}.pt")


def alone(**changes):
    "Losses and weights of a training in one process."
    trained = new_model(**changes)
    return train(trained.model, examples_of(trained), CONFIG, progress=False), trained.model.state_dict()


def bits(state):
    return {name: tensor.numpy().tobytes() for name, tensor in state.items()}


def assert_ends_as_alone(losses, weights):
    expected, state = alone()
    assert len(losses) == 15 and losses == pytest.approx(expected, abs=1e-9)
    for name, tensor in state.items():
        assert (weights[name] - tensor).abs().max() < 1e-9, name


def test_a_process_alone_takes_the_steps_of_train_bit_by_bit(tmp_path):
    changes = {"dropout": 0.2, "dtype": torch.float32}
    Group(0, tmp_path, partial(work, **changes), tmp_path / "folder", tmp_path).succeed()
    losses, weights, training = torch.load(tmp_path / "0.pt")
    expected, state = alone(**changes)
    assert losses == expected and bits(weights) == bits(state) and not training
    assert Checkpoints(tmp_path / "folder").steps() == [12, 15]


OTHERS = [((2, "ddp"), (3, "fsdp")), ((3, "fsdp"), (1, "ddp")), ((2, "fsdp"), (1, "fsdp"))]


@pytest.mark.parametrize("first, then", OTHERS)
def test_killed_it_goes_on_with_any_number_and_in_any_way(tmp_path, first, then):
    group = Group(first[0], tmp_path / "said", work, tmp_path / "folder", tmp_path, first[1], (first[0] - 1, 7))
    assert group.end(0)[0] == 1 and group.said(0).strip().endswith("if it left one, and start again")
    assert Checkpoints(tmp_path / "folder").steps() == [3, 6]
    Group(then[0], tmp_path / "again", work, tmp_path / "folder", tmp_path, then[1]).succeed()
    assert Checkpoints(tmp_path / "folder").steps() == [12, 15]
    losses, weights, training = torch.load(tmp_path / "0.pt")
    assert_ends_as_alone(losses, weights)
    assert not training
    for rank in range(1, then[0]):
        assert torch.load(tmp_path / f"{rank}.pt")[0] == losses


@pytest.mark.parametrize("how, who", [("ddp", 0), ("fsdp", 1)])
def test_killed_while_it_saves_it_has_the_checkpoint_before_and_ends_at_the_same_bits(tmp_path, how, who):
    in_peace, folder = tmp_path / "peace", tmp_path / "folder"
    peaceful = Group(2, in_peace, partial(work, dropout=0.2), in_peace / "folder", in_peace, how)
    group = Group(2, tmp_path, partial(work, dropout=0.2), folder, tmp_path, how, None, who)
    assert group.end(1 - who)[1 - who] == 1
    assert sorted(os.listdir(folder)) == ["lock", "step-3", "step-6-shards.part"]
    Group(2, tmp_path, partial(work, dropout=0.2), folder, tmp_path, how).succeed()
    assert sorted(os.listdir(folder)) == ["lock", "step-12", "step-15"]
    peaceful.succeed()
    (losses, weights, _), (expected, state, _) = (torch.load(place / "0.pt") for place in (tmp_path, in_peace))
    assert losses == expected and bits(weights) == bits(state)
    assert torch.load(in_peace / "1.pt")[0] == losses


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_where_one_is_asked_to_stop_all_save_that_step_and_go_on_to_the_same_bits(tmp_path, how):
    in_peace, folder = tmp_path / "peace", tmp_path / "folder"
    peaceful = Group(2, in_peace, partial(work, dropout=0.2), in_peace / "folder", in_peace, how)
    group = Group(2, tmp_path, partial(work, dropout=0.2), folder, tmp_path, how, (1, 7, signal.SIGTERM))
    assert group.end() == [1, 1]
    for rank in (0, 1):
        assert group.said(rank).strip().endswith(f"KeyboardInterrupt: {int(signal.SIGTERM)}")
    assert Checkpoints(folder).steps() == [6, 8]
    Group(2, tmp_path, partial(work, dropout=0.2), folder, tmp_path, how).succeed()
    peaceful.succeed()
    (losses, weights, _), (expected, state, _) = (torch.load(place / "0.pt") for place in (tmp_path, in_peace))
    assert losses == expected and bits(weights) == bits(state)


SCRIPT = """
import os, sys, time
from pathlib import Path
from test_together import work

place, rank, start = Path(sys.argv[1]), os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
work(place / "folder", place, "fsdp", killed=(1, 7) if start == "0" else None, dropout=0.2)
if rank == "1":
    raise ValueError("what process 1 has to say")
time.sleep(600)
"""


def test_torchrun_starts_it_again_after_a_kill_and_ends_all_where_one_fails(tmp_path):
    in_peace, script = tmp_path / "peace", tmp_path / "script.py"
    peaceful = Group(2, in_peace, partial(work, dropout=0.2), in_peace / "folder", in_peace, "fsdp")
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, script, tmp_path], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 1    # as `timeout` would not say
    assert "exitcode: -9" in done.stderr and "ValueError: what process 1 has to say" in done.stderr
    peaceful.succeed()
    (losses, weights, _), (expected, state, _) = (torch.load(place / "0.pt") for place in (tmp_path, in_peace))
    assert losses == expected and bits(weights) == bits(state)


def test_a_folder_that_one_machine_does_not_see_is_refused(tmp_path):
    group = Group(2, tmp_path, work, [tmp_path / "here", tmp_path / "there"], tmp_path)
    assert group.end()[1] == 1
    told = f"ValueError: process 1 does not see the folder {tmp_path / 'there'} of process 0; "
    assert group.said(1).strip().splitlines()[-1] == told + "name one that all machines share"


# What follows needs no second process.


def go_on(folder, config=CONFIG, objective=loss_of, **changes):
    trained = new_model(**changes)
    rest = dict(how="fsdp", objective=objective, progress=False)
    with processes():
        losses = train_together(trained.model, examples_of(trained), config, Checkpoints(folder, EVERY), **rest)
    return losses, trained.model.state_dict()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    go_on(folder)
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"config": replace(CONFIG, seed=2)}, "seed was 1 and is 2"),
        ({"d_ff": 24}, "decoder.d_ff was 16 and is 24"),
        ({"dtype": torch.float32}, "the parameters are others; "),
    ],
)
def test_the_checkpoints_of_another_training_are_refused(tmp_path, finished, changes, told):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    with pytest.raises(ValueError) as found:
        go_on(tmp_path, **changes)
    message = str(found.value)
    begins = f"{tmp_path / 'step-15'} cannot be gone on from: this is the state of another training: "
    assert message.startswith(begins) and told in message
    assert message.endswith(f"; give the same, or delete {tmp_path} to begin anew")
    assert contents(tmp_path) == before


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a bit of a shard": lambda place: flip(place / "__0_0.distcp"),
    "no shard": lambda place: (place / "__0_0.distcp").unlink(),
    "a bit of the metadata": lambda place: flip(place / ".metadata"),
    "no about.json": lambda place: (place / "about.json").unlink(),
    "garbage in about.json": lambda place: (place / "about.json").write_bytes(b"\xff[" * 9),
    "another about.json": lambda place: (place / "about.json").write_text('["losses"]'),
    "no hashes": lambda place: (place / "sha256").unlink(),
    "garbage for hashes": lambda place: (place / "sha256").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_is_there(tmp_path, finished, damage):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    place = tmp_path / "step-15"
    DAMAGES[damage](place)
    before = contents(tmp_path)
    with pytest.raises(ValueError) as found:
        go_on(tmp_path)
    remedy = "it is damaged; move it away, to go on from the one before or begin anew"
    assert str(found.value) == f"{place} cannot be gone on from: {remedy}"
    assert contents(tmp_path) == before
    place.rename(tmp_path / "away")
    assert_ends_as_alone(*go_on(tmp_path))
    assert Checkpoints(tmp_path).steps() == [12, 15]


def test_each_kind_of_checkpoint_is_refused_where_it_is_not_its_own(tmp_path, finished):
    shards, single = tmp_path / "shards", tmp_path / "single"
    shutil.copytree(finished, shards)
    run = TrainingRun(new_model().model, examples_of(new_model()), CONFIG)
    train_resumably(run, Checkpoints(single, EVERY), progress=False)
    before = contents(tmp_path)
    with pytest.raises(ValueError) as found:
        go_on(single)
    told = f"it was begun without torchrun; go on without it, or delete {single} to begin anew"
    assert str(found.value) == f"{single / 'step-15'} cannot be gone on from: {told}"
    with pytest.raises(ValueError) as found:
        train_resumably(run, Checkpoints(shards, EVERY), progress=False)
    told = "was begun under torchrun, and goes on under it (with --nproc-per-node=1 for one process); start it so, "
    assert str(found.value) == f"{shards / 'step-15'} {told}or delete {shards} to begin anew"
    assert contents(tmp_path) == before
    Checkpoints(shards).clear()
    assert not shards.exists()


def in_steps(from_step, do):
    "The loss, before which something is done from this step on."

    def objective(model, batch, config, step):
        if step >= from_step:
            do()
        return loss_of(model, batch, config, step)

    return objective


def test_what_cannot_be_written_is_told_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:    # the disk takes no more than a few bytes of a file
        few = in_steps(4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (99, limits[1])))
        with pytest.raises(OSError) as found:
            go_on(tmp_path, objective=few)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    remedy = "; mend that, and start the same training again to go on"
    why = f"the checkpoint of step 6 cannot be written to {tmp_path} ("
    assert str(found.value).startswith(why) and str(found.value).endswith(remedy)
    assert Checkpoints(tmp_path).steps() == [3]

    def no_room(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(OSError) as found:
        full.setattr(together, "write_new", no_room)
        go_on(tmp_path)
    assert str(found.value) == f"{why}No space left on device){remedy}"
    assert Checkpoints(tmp_path).steps() == [3]
    assert_ends_as_alone(*go_on(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["lock", "step-12", "step-15"]


def test_a_folder_serves_one_training_at_a_time_and_must_be_one(tmp_path):
    with hold(tmp_path / "lock"), pytest.raises(ValueError, match=f"another training is at work in {tmp_path}; "):
        go_on(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"checkpoints cannot be kept in {tmp_path / 'file' / 'under'} "):
        go_on(tmp_path / "file" / "under")
    assert sorted(os.listdir(tmp_path)) == ["file", "lock"]


def unlike(folder):
    with processes(limit=20):
        trained, config = new_model(), replace(CONFIG, seed=1 + dist.get_rank())
        train_together(trained.model, examples_of(trained), config, Checkpoints(folder), progress=False)


def test_processes_that_were_given_different_things_are_told(tmp_path):
    group = Group(2, tmp_path / "group", unlike, tmp_path / "kept")
    assert group.end(within=30) == [1, 1]
    assert "process 1 was given other seed than process 0; give all the same" in group.said(1)


def test_a_training_in_bfloat16_is_spread_so(tmp_path, monkeypatch):
    asked = []

    def note(model, how, bfloat16=None):
        asked.append((how, bfloat16))
        raise InterruptedError

    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(together, "spread", note)
    for bfloat16 in (False, True):
        config = TrainingConfig(bfloat16=bfloat16)
        trained = new_model()
        with processes(), pytest.raises(InterruptedError):
            train_together(trained.model, examples_of(trained), config, Checkpoints(tmp_path), how="fsdp")
    assert asked == [("fsdp", False), ("fsdp", True)]
