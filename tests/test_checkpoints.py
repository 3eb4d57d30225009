"""A training that is killed anywhere goes on to the very same weights, and what is damaged is set aside, not lost."""

import errno
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import threading
import warnings
from itertools import count
from pathlib import Path

import pytest
import torch
from speller import examples_of, small_pronouncer

from annotated_decoder.trained import checkpoints, whole_files
from annotated_decoder.trained.checkpoints import Checkpoints, _write_checkpoint, defer_stop, train_resumably
from annotated_decoder.trained.resuming import TrainingRun
from annotated_decoder.training import TrainingConfig

EVERY = 3
MANY = os.environ.get("HYPOTHESIS_PROFILE") == "many"
FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"}


def new_run(**changes):
    trained = small_pronouncer(d_model=8, d_ff=16, dropout=0.2)
    config = TrainingConfig(**{"epochs": 5, "letters_per_batch": 12} | changes)
    return TrainingRun(trained.model, examples_of(trained), config)


def digest(run):
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in run.model.parameters())).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted():
    run = new_run()
    list(run)
    return run


def in_child(work) -> int:
    "Run `work` in a process of its own; what it was ended by, as subprocess has it."
    if (pid := os.fork()) == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            status = work() or 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at(nth: int, folder: Path):
    "Let this process be killed just before its nth operation on a file or folder under `folder`."
    seen = 0

    def watch(event, arguments):
        nonlocal seen
        if event in FILE_EVENTS and str(folder) in str(arguments[0]):
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def trained_in(folder, prepare=lambda run: None):
    def work():
        run = new_run()
        prepare(run)
        train_resumably(run, Checkpoints(folder, EVERY), progress=False)

    return work


def finish(folder, uninterrupted):
    "Start it once more in this process; its losses and weights must be those of a run that was left in peace."
    run = new_run()
    train_resumably(run, Checkpoints(folder, EVERY), progress=False)
    assert run.losses == uninterrupted.losses
    assert digest(run) == digest(uninterrupted)
    assert Checkpoints(folder).steps()[-1] == run.steps


@pytest.mark.parametrize("last", range(15))
def test_killed_after_any_step_it_loses_only_those_since_the_last_checkpoint(last, tmp_path, uninterrupted):
    def prepare(run):
        step = run.take_step

        def take_step(*arguments):
            if len(run.losses) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*arguments)

        run.take_step = take_step

    assert uninterrupted.steps == 15
    assert in_child(trained_in(tmp_path, prepare)) == -signal.SIGKILL
    assert Checkpoints(tmp_path).steps() == [step for step in range(EVERY, last + 1, EVERY)][-2:]
    finish(tmp_path, uninterrupted)


def test_killed_at_any_operation_on_a_file_it_goes_on_to_the_same_weights(tmp_path, uninterrupted):
    nth, ended = 0, None
    while ended != 0:
        nth += 1 if MANY else 1 + nth // 12
        folder = tmp_path / str(nth)
        ended = in_child(trained_in(folder, lambda run, nth=nth, folder=folder: kill_at(nth, folder)))
        assert ended in (0, -signal.SIGKILL)
        there = Checkpoints(folder).steps()
        with warnings.catch_warnings():
            warnings.simplefilter("error")    # a kill damages no checkpoint
            state = Checkpoints(folder).newest()
        assert (len(state["losses"]) if state else 0) == (there[-1] if there else 0)
        finish(folder, uninterrupted)
    assert nth > 40


@pytest.mark.parametrize("size", [1, 700, 5_000] if not MANY else range(1, 20_000, 500))
def test_killed_in_the_middle_of_a_file_it_goes_on_to_the_same_weights(size, tmp_path, uninterrupted):
    def prepare(run):
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)    # the first byte over the limit kills
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    assert in_child(trained_in(tmp_path, prepare)) == -signal.SIGXFSZ
    assert Checkpoints(tmp_path).steps() == []
    finish(tmp_path, uninterrupted)


def full_after(n):
    "A write that fails as on a full disk, from the nth on."
    calls = []

    def write(path, data):
        calls.append(path)
        path.write_bytes(data[: len(data) // (2 if len(calls) > n else 1)])
        if len(calls) > n:
            raise OSError(errno.ENOSPC, "No space left on device")

    return write


@pytest.mark.parametrize("n, there", [(0, "there is none before"), (3, "the last whole one is that of step 3")])
def test_a_full_disk_ends_it_with_a_remedy_and_loses_nothing(n, there, tmp_path, monkeypatch, uninterrupted):
    with monkeypatch.context() as patched, pytest.raises(OSError) as refused:
        patched.setattr(checkpoints, "write_new", full_after(n))
        train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    message = str(refused.value)
    assert refused.value.errno == errno.ENOSPC and "No space left on device" in message and str(tmp_path) in message
    assert f"the checkpoint of step {EVERY * (1 + n // 2)} cannot be written" in message and there in message
    assert "make room, and start the same training again to go on" in message
    assert not list(tmp_path.glob("*.part"))
    finish(tmp_path, uninterrupted)


def damage_byte(place):
    path = place / "state.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "one bit": damage_byte,
    "cut short": lambda place: os.truncate(place / "state.pt", 100),
    "empty": lambda place: (place / "state.pt").write_bytes(b""),
    "no state": lambda place: (place / "state.pt").unlink(),
    "no hash": lambda place: (place / "sha256").unlink(),
    "a hash that is none": lambda place: (place / "sha256").write_bytes(bytes(range(128, 256))),
    "nothing in it": lambda place: [path.unlink() for path in place.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(damage, tmp_path, uninterrupted):
    train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    before, newest = Checkpoints(tmp_path).steps()
    damage(tmp_path / f"step-{newest}")
    kept = {path.name: path.read_bytes() for path in (tmp_path / f"step-{newest}").iterdir()}
    with pytest.warns(UserWarning, match=f"step-{newest} is damaged and now stands in .*; an older one is looked for"):
        state = Checkpoints(tmp_path).newest()
    assert len(state["losses"]) == before
    (aside,) = tmp_path.glob("damaged-*/step-*")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == kept
    finish(tmp_path, uninterrupted)


def test_where_all_are_damaged_it_begins_anew_and_keeps_them(tmp_path, uninterrupted):
    train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    for step in Checkpoints(tmp_path).steps():
        damage_byte(tmp_path / f"step-{step}")
    with pytest.warns(UserWarning, match="is damaged"):
        finish(tmp_path, uninterrupted)
    assert len(list(tmp_path.glob("damaged-*/step-*"))) == 2


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Command:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    Checkpoints(tmp_path / "c").save(1, {"losses": Command()})
    with pytest.raises(ValueError, match="step-1 holds what no training writes; nothing of it was executed, delete it"):
        Checkpoints(tmp_path / "c").newest()
    assert not (tmp_path / "executed").exists()


def test_each_file_reaches_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done, rename = [], os.rename

    def sync(path):
        done.append(("sync", path.name if path.is_file() else "folder"))

    monkeypatch.setattr(checkpoints, "sync", sync)
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append(("rename", Path(b).name)), rename(a, b)))
    Checkpoints(tmp_path, keep=1).save(1, {"losses": [1.0]})
    Checkpoints(tmp_path, keep=1).save(2, {"losses": [1.0, 2.0]})
    order = [("sync", "state.pt"), ("sync", "sha256"), ("sync", "folder"), ("rename", "step-1"), ("sync", "folder")]
    assert done[:5] == order
    assert done[5:] == [(a, b.replace("-1", "-2")) for a, b in order] + done[-1:]
    assert done[-1][0] == "rename" and re.fullmatch("step-1-[0-9a-f]{8}.part", done[-1][1])
    assert Checkpoints(tmp_path).steps() == [2] and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("folder", [False, True])
def test_sync_asks_the_system_for_a_file_and_for_a_folder(folder, tmp_path, monkeypatch):
    path, asked, fsync = tmp_path if folder else tmp_path / "f", [], os.fsync
    (tmp_path / "f").write_text("x")
    monkeypatch.setattr(os, "fsync", lambda handle: (asked.append(os.fstat(handle).st_ino), fsync(handle)))
    checkpoints.sync(path)
    assert asked == [path.stat().st_ino]


def test_a_finished_training_is_not_trained_again(tmp_path, monkeypatch, uninterrupted):
    train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    monkeypatch.setattr(TrainingRun, "take_step", lambda *a: pytest.fail("it was trained again"))
    run = new_run()
    train_resumably(run, Checkpoints(tmp_path, EVERY), progress=False)
    assert digest(run) == digest(uninterrupted) and not run.model.training


def test_a_folder_serves_one_training_at_a_time(tmp_path):
    run = new_run()
    step = run.take_step

    def take_step(*arguments):
        if len(run.losses) == 4:    # in the middle of the one, another one starts
            assert in_child(lambda: refused(tmp_path)) == 7
        return step(*arguments)

    run.take_step = take_step
    train_resumably(run, Checkpoints(tmp_path, EVERY), progress=False)
    assert Checkpoints(tmp_path).steps() == [12, 15]


def refused(folder):
    try:
        train_resumably(new_run(), Checkpoints(folder, EVERY), progress=False)
    except ValueError as error:
        return 7 if f"another training is at work in {folder}; wait for it, or name another" in str(error) else 8
    return 9


def test_clear_takes_its_own_and_leaves_the_rest(tmp_path):
    train_resumably(new_run(), Checkpoints(tmp_path / "own", EVERY), progress=False)
    Checkpoints(tmp_path / "own").clear()
    assert not (tmp_path / "own").exists()
    train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    damage_byte(tmp_path / "step-15")
    with pytest.warns(UserWarning, match="damaged"):
        Checkpoints(tmp_path).newest()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-3-1.part").mkdir()
    Checkpoints(tmp_path).clear()
    assert [path.name.split("-")[0] for path in sorted(tmp_path.iterdir())] == ["damaged", "notes.txt"]
    Checkpoints(tmp_path / "none").clear()


def test_an_unreadable_disk_counts_as_damage(tmp_path, monkeypatch):
    train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    read = Path.read_bytes

    def read_bytes(path):
        if path.parent.name == "step-15":
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.warns(UserWarning, match="step-15 is damaged"):
        assert len(Checkpoints(tmp_path).newest()["losses"]) == 12


@pytest.mark.parametrize("name", ["step-007", "step-\u0663", "step-", "step-1x"])
def test_folders_with_other_names_are_no_checkpoints(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / "step-5").write_text("a file")
    assert Checkpoints(tmp_path).steps() == [] and Checkpoints(tmp_path).newest() is None


def test_a_folder_of_another_training_is_refused_and_left_alone(tmp_path):
    train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    told = f"seed was 1 and is 2; give the same, or delete {tmp_path} to begin anew"
    with pytest.raises(ValueError, match=f"cannot be gone on from: .*{told}"):
        train_resumably(new_run(seed=2), Checkpoints(tmp_path, EVERY), progress=False)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@pytest.mark.parametrize("number", USUAL)
def test_who_is_asked_to_stop_ends_the_step_saves_and_ends_the_training(tmp_path, uninterrupted, interruptible, number):
    run = new_run()
    step = run.take_step

    def take_step(*arguments):
        if len(run.losses) == 4:
            signal.raise_signal(number)
        return step(*arguments)

    run.take_step = take_step
    with pytest.raises(KeyboardInterrupt) as stop:
        train_resumably(run, Checkpoints(tmp_path, EVERY), progress=False)
    assert stop.value.args == (number,)
    assert len(run.losses) == 5 and Checkpoints(tmp_path).steps() == [3, 5]
    assert {each: signal.getsignal(each) for each in USUAL} == USUAL
    finish(tmp_path, uninterrupted)


@pytest.mark.parametrize("number", USUAL)
def test_a_second_of_its_kind_breaks_in_at_once(interruptible, number):
    (other,) = {*USUAL} - {number}
    with pytest.raises(KeyboardInterrupt), defer_stop() as asked:
        for each in (number, other):
            signal.raise_signal(each)
        signal.raise_signal(number)
        pytest.fail("the second was not heard")
    assert asked == [number, other]
    assert {each: signal.getsignal(each) for each in USUAL} == USUAL


@pytest.mark.parametrize("number", USUAL)
def test_a_caller_who_ignores_a_signal_keeps_that(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with defer_stop() as asked:
            signal.raise_signal(number)
        assert not asked and signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_thread_leaves_the_signals_alone(interruptible):
    def look():
        with defer_stop():
            seen.append({each: signal.getsignal(each) for each in USUAL})

    seen = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [USUAL]


@pytest.mark.parametrize("keep", [1, 2, 4])
def test_the_newest_few_stay(keep, tmp_path):
    train_resumably(new_run(), Checkpoints(tmp_path, 2, keep), progress=False)
    last = new_run().steps
    wanted = sorted({*range(2, last + 1, 2), last})
    assert Checkpoints(tmp_path).steps() == wanted[-keep:]


def test_what_cannot_work_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="file' is there and is no folder; give the name of a folder"):
        Checkpoints(tmp_path / "file")
    with pytest.raises(ValueError, match="every is 500 and keep 0; give numbers of at least 1"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="every is 0 and keep 2; give numbers of at least 1"):
        Checkpoints(tmp_path, every=0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def in_the_way(path, kind, elsewhere):
    "Something that lies under this name already, half a checkpoint or a trap."
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "mine").write_text("mine")
    if kind == "a folder":
        path.mkdir()
        (path / "state.pt").write_text("half")
    elif kind == "a file":
        path.write_text("half")
    else:
        path.symlink_to({"a link": elsewhere / "mine", "a link to a folder": elsewhere, "a loop": path}[kind])


@pytest.mark.parametrize("kind", ["a folder", "a file", "a link", "a link to a folder", "a loop"])
def test_what_lies_at_a_temporary_name_is_swept_away_and_a_link_not_followed(kind, tmp_path, monkeypatch):
    folder, elsewhere = tmp_path / "c", tmp_path / "elsewhere"
    folder.mkdir()
    drawn = count()
    monkeypatch.setattr(whole_files.secrets, "token_hex", lambda n: f"{next(drawn):08}")    # it can be foreseen
    for name in ("step-3.part", "step-6.part", "step-3-00000000.part", "step-6-00000001.part"):
        in_the_way(folder / name, kind, elsewhere)
    train_resumably(new_run(), Checkpoints(folder, EVERY), progress=False)
    assert Checkpoints(folder).steps() == [12, 15] and not list(folder.glob("*.part"))
    assert [path.read_text() for path in elsewhere.iterdir()] == ["mine"]


@pytest.mark.parametrize("kind", ["a folder", "a link", "a loop", "a pipe"])
def test_a_lock_that_is_no_file_is_refused_in_one_sentence(kind, tmp_path):
    folder = tmp_path / "c"
    folder.mkdir()
    if kind == "a pipe":
        os.mkfifo(folder / "lock")
    else:
        in_the_way(folder / "lock", kind, tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"checkpoints cannot be kept in .*; see that it can be read and written, or"):
        train_resumably(new_run(), Checkpoints(folder, EVERY), progress=False)


READ_ONLY = {  # what a read-only or vanished folder refuses: how it refuses, the sentence
    "mkdir": (Path, "mkdir", "checkpoints cannot be kept in {}"),
    "lock": (os, "open", "checkpoints cannot be kept in {}"),
    "names": (os, "listdir", "checkpoints cannot be kept in {}"),
    "a new one": (checkpoints, "write_new", "the checkpoint of step 3 cannot be written to {}"),
    "the parent": (checkpoints, "sync", "checkpoints cannot be kept in {}"),
}


@pytest.mark.parametrize("owner, name, sentence", READ_ONLY.values(), ids=READ_ONLY)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_refuses_is_named_with_a_remedy(owner, name, sentence, number, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    run = new_run()
    with monkeypatch.context() as patched, pytest.raises(OSError) as refused:
        patched.setattr(owner, name, refuse)
        train_resumably(run, Checkpoints(tmp_path / "c", EVERY), progress=False)
    message = str(refused.value)
    assert sentence.format(tmp_path / "c") in message and os.strerror(number) in message
    assert refused.value.errno == number
    assert message.count(";") >= 1 and "\n" not in message


def test_a_folder_that_vanishes_is_made_again(tmp_path, uninterrupted):
    run = new_run()
    step = run.take_step

    def take_step(*arguments):
        if len(run.losses) == 7:
            shutil.rmtree(tmp_path / "c")
        return step(*arguments)

    run.take_step = take_step
    train_resumably(run, Checkpoints(tmp_path / "c", EVERY), progress=False)
    assert Checkpoints(tmp_path / "c").steps() == [12, 15] and digest(run) == digest(uninterrupted)


@pytest.mark.parametrize("state", [[1, 2], "text", None, torch.zeros(2), {"losses": []}, {}], ids=str)
def test_a_checkpoint_of_something_else_is_refused_by_its_folder(state, tmp_path):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    _write_checkpoint(tmp_path, 3, buffer.getvalue())
    with pytest.raises(ValueError, match=f"{tmp_path}") as refused:
        train_resumably(new_run(), Checkpoints(tmp_path, EVERY), progress=False)
    told = str(refused.value)
    assert "\n" not in told and ("delete it" in told or f"delete {tmp_path} to begin anew" in told)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02.", b"text\n" * 9, b"\x80\x04\x95" + bytes(9)], ids=str)
def test_bytes_that_are_no_state_are_refused_by_their_place(data, tmp_path):
    _write_checkpoint(tmp_path, 3, data)
    with pytest.raises(ValueError, match="step-3 holds what no training writes; nothing of it was executed, delete it"):
        Checkpoints(tmp_path).newest()


def test_what_a_crash_left_is_cleared_and_other_things_stay(tmp_path):
    (tmp_path / "step-9-x.part").mkdir()
    (tmp_path / "step-9-x.part" / "state.pt").write_text("half")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "thesis.part").mkdir()
    (tmp_path / "step-by-step").mkdir()
    Checkpoints(tmp_path).save(1, {"losses": [0.5]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step-1", "step-by-step", "thesis.part"]
    shutil.rmtree(tmp_path / "step-1")
    assert Checkpoints(tmp_path).newest() is None
