"""Lines answered by several processes come out whole, once and in order, whatever their number and whichever died."""

import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import kills
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoints import MANY, in_child, kill_at
from test_translating import TEXTS, write_marian

from annotated_decoder import cli
from annotated_decoder.pretrained.rules import Sampling
from annotated_decoder.pretrained.translating import Translator
from annotated_decoder.trained import in_bulk, whole_files
from annotated_decoder.trained.in_bulk import Bulk, answer_in_bulk, worker_of

SRC = str(Path(cli.__file__).parent.parent)
PLAIN = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
PLAIN |= {"PYTHONPATH": SRC, "OMP_NUM_THREADS": "1"}
ABOUT = {"answer": "capitals"}
LINES = "".join(f"line {'x' * (i % 7)}{'!' * (i % 5 == 3)}\n" for i in range(23))


def capitals(lines):
    "An exclamation mark is refused, a question mark written and complained of."
    for line in lines:
        text = line.rstrip("\n")
        if "!" in text:
            yield "", ValueError(f"{text!r} is\nloud")
        else:
            yield f"{text.upper()}\n", "no end" if "?" in text else None


def expected_of(data: bytes) -> tuple[bytes, bytes]:
    "What the two files are to hold, by one loop over the lines."
    lines = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
    told = list(capitals(lines))
    refused = "".join(f"{n}\t{str(why).replace(chr(10), ' ')}\n" for n, (_, why) in enumerate(told, 1) if why)
    return tuple(text.encode("utf-8", "surrogateescape") for text in ("".join(text for text, _ in told), refused))


def assert_whole(out: Path, data: bytes, also=()):
    "The outputs are those of one loop, and nothing else is beside them."
    text, refused = expected_of(data)
    assert out.read_bytes() == text
    names = [out.name, f"{out.name}.made_of.json", *([f"{out.name}.refused"] if refused else []), *also]
    assert sorted(os.listdir(out.parent)) == sorted(names)
    assert not refused or out.with_name(f"{out.name}.refused").read_bytes() == refused


@pytest.fixture
def place(tmp_path):
    "A file of lines, and in a folder of its own the output to be."
    (tmp_path / "lines").write_text(LINES)
    return tmp_path / "lines", tmp_path / "made" / "out"


def bulk(place, rank=0, world=1, chunk_lines=4, made_of=ABOUT, answer=capitals):
    return answer_in_bulk(place[0], answer, place[1], made_of=made_of, worker=(rank, world), chunk_lines=chunk_lines)


texts = st.lists(st.sampled_from([b"a", "é".encode(), b"\xff", b"!", b"?", b"\n", b"\r\n", b"\r", b"\0", b" "]))


@given(data=texts.map(b"".join), world=st.integers(1, 4), chunk_lines=st.integers(1, 5), order=st.randoms())
@settings(deadline=None)
def test_any_lines_in_any_world_are_answered_in_order(data, world, chunk_lines, order):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "lines"), Path(folder, "made", "out")
        place[0].write_bytes(data)
        ranks = list(range(world))
        order.shuffle(ranks)
        found = [bulk(place, rank, world, chunk_lines) for rank in ranks]
        assert_whole(place[1], data)
        assert found[-1][:2] == (expected_of(data)[1].count(b"\n"), [])


def test_each_rank_answers_its_own_lines_once_and_says_whose_are_missing(place):
    seen = []

    def counted(lines):
        seen.extend(lines)
        return capitals(lines)

    lines = LINES.splitlines(keepends=True)
    chunks = [lines[i : i + 4] for i in range(0, len(lines), 4)]
    for n, missing in ((1, [0, 2]), (0, [2]), (0, [2]), (2, [])):
        assert bulk(place, n, 3, answer=counted).missing == missing
    assert seen == [line for rank in (1, 0, 2) for chunk in chunks[rank::3] for line in chunk]
    assert_whole(place[1], LINES.encode())


def test_who_comes_when_all_is_done_does_nothing_and_tells_the_same(place):
    first = bulk(place)
    assert first == Bulk(4, [], 23)
    for rank, world in ((0, 1), (1, 2), (3, 4)):
        assert bulk(place, rank, world, answer=lambda lines: pytest.fail("the work has begun")) == first
        assert_whole(place[1], LINES.encode())


@pytest.mark.parametrize("name", ["out", "out.refused"])
def test_what_is_missing_or_was_changed_afterwards_is_made_anew(place, name):
    bulk(place)
    path = place[1].with_name(name)
    for change in (path.unlink, lambda: path.write_text("changed")):
        change()
        bulk(place, 0, 2)
        assert bulk(place, 1, 2) == Bulk(4, [], 23)
        assert_whole(place[1], LINES.encode())


def test_what_gets_its_name_has_reached_the_disk(place, monkeypatch):
    events = []

    def watch(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *paths: (function(*paths), events.append(tuple(map(Path, paths))))[0])

    for module in (whole_files, in_bulk):
        watch(module, "sync")
    watch(os, "replace"), watch(os, "rename")
    bulk(place)
    named = [i for i, event in enumerate(events) if len(event) == 2 and event[1].suffix != ".part"]
    for i in named:
        part, target = events[i]
        assert events[i - 1] == (part,) and events[i + 1] == (target.parent,)    # its bytes, its name
    chunks = {f"{n}.json" for n in range(6)}
    assert {events[i][1].name for i in named} >= {"out.chunks", "out", "out.refused", "out.made_of.json", *chunks}


# Kills


@pytest.mark.parametrize("streamed", [False, True], ids=["a file", "a stream"])
def test_killed_at_any_operation_on_a_file_nothing_is_lost(streamed, tmp_path):
    (tmp_path / "lines").write_text(LINES)
    nth, ended = 0, None
    while ended != 0:
        nth += 1 if MANY else 1 + nth // 9
        out = tmp_path / str(nth) / "out"

        def work(rank, world, out=out):
            return bulk((io.BytesIO(LINES.encode()) if streamed else tmp_path / "lines", out), rank, world, 8)

        def killed(out=out, nth=nth, work=work):
            kill_at(nth, out.parent)
            work(0, 1)

        ended = in_child(killed)
        assert ended in (0, -signal.SIGKILL)
        world = 1 + nth % 3
        assert [work(rank, world) for rank in range(world)][-1] == Bulk(4, [], 23)
        left = [name for name in os.listdir(out.parent) if name.endswith(".part")]
        assert len(left) <= 1 and not any(out.with_name(name).stat().st_size for name in left)    # check_target's
        assert_whole(out, LINES.encode(), left)
    assert nth > 40


def test_a_folder_that_others_may_be_at_work_in_is_renamed_before_it_is_emptied(place, monkeypatch):
    begun, deleted, rmtree = place[1].with_name("out.chunks-01234567.part"), [], shutil.rmtree
    bulk(place, 0, 2)
    begun.mkdir()
    (begun / "made_of.json").write_text("{}")
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: (deleted.append(path), rmtree(path, **options)))
    assert bulk(place, 1, 2) == Bulk(4, [], 23)
    assert begun not in deleted and len(deleted) >= 2
    assert_whole(place[1], LINES.encode())


def test_killed_at_random_nothing_is_lost():
    assert kills.generation(4, 1)["kills"] == 4


def test_two_of_the_same_rank_at_once_do_no_harm(tmp_path):
    (tmp_path / "lines").write_text(LINES)
    script = """
import sys
from annotated_decoder.trained.in_bulk import answer_in_bulk
def answer(lines):
    return [(line.upper(), "loud" if "!" in line else None) for line in lines]
print(answer_in_bulk(sys.argv[1], answer, sys.argv[2], made_of={}, chunk_lines=1))
"""
    for n in range(3):
        out = tmp_path / str(n) / "out"
        command = [sys.executable, "-c", script, tmp_path / "lines", out]
        pair = [subprocess.Popen(command, env=PLAIN, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [worker.communicate()[0] for worker in pair] == ["Bulk(refused=4, missing=[], lines=23)\n"] * 2
        assert out.read_text() == LINES.upper()
        assert sorted(os.listdir(out.parent)) == ["out", "out.made_of.json", "out.refused"]


def test_a_million_lines_fit_into_a_small_memory(tmp_path):
    script = """
import sys
from pathlib import Path
from annotated_decoder.trained.in_bulk import answer_in_bulk
sys.path.append(sys.argv[2])
from memory import grown
folder = Path(sys.argv[1])
def answer(lines):
    return ((line[::-1], None) for line in lines)
for name, times in (("few", 1), ("many", 100)):
    with (folder / name).open("w") as file:
        for n in range(times):
            file.write("".join(f"{10_000 * n + i:080d}\\n" for i in range(10_000)))
    inputs, out = folder / name, folder / "out" / name
    print(grown(lambda: answer_in_bulk(inputs, answer, out, made_of={}, chunk_lines=10_000)), out.stat().st_size)
"""
    command = [sys.executable, "-c", script, tmp_path, str(Path(__file__).parent)]
    out = subprocess.run(command, env=PLAIN, capture_output=True, text=True)
    (few, _), (many, size) = (map(float, line.split()) for line in out.stdout.splitlines())
    assert size == 81_000_000 and max(few, many) < 32    # MiB; the many lines are 77


# What lies there


def test_a_chunk_that_is_damaged_is_answered_again(place):
    bulk(place, 0, 2)
    chunk = place[1].with_name("out.chunks") / "2.json"
    whole = chunk.read_bytes()
    for damaged in (whole[:-1], whole.replace(b"LINE", b"LIME", 1), b""):
        chunk.write_bytes(damaged)
        assert bulk(place, 0, 2) == Bulk(0, [1]) and chunk.read_bytes() == whole
    chunk.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="2.json is damaged; give the same again, which mends it"):
        bulk(place, 1, 2)
    assert not place[1].exists()
    bulk(place, 0, 2)
    assert_whole(place[1], LINES.encode())


@pytest.mark.parametrize("kind", ["a file", "a folder of others", "a record that is none", "a link to nothing"])
def test_what_is_no_folder_of_answers_is_refused_and_left(place, kind):
    folder = place[1].with_name("out.chunks")
    folder.parent.mkdir()
    if kind == "a file":
        folder.write_text("mine")
    elif kind == "a link to nothing":
        folder.symlink_to("nothing")
    else:
        folder.mkdir()
        (folder / ("made_of.json" if "record" in kind else "mine")).write_text("[1]")
    with pytest.raises(ValueError, match="is there, and is no folder of answers in bulk; delete it, or give another"):
        bulk(place)
    assert os.path.lexists(folder) and os.listdir(folder.parent) == [folder.name]


CHANGES = {
    "the options": (dict(made_of=ABOUT | {"beam": 5}), "another beam (None, and now 5)"),
    "one option less": (dict(made_of={}), "another answer ('capitals', and now None)"),
    "the size of a chunk": (dict(chunk_lines=5), "another chunks ([1, 4], and now [1, 5])"),
    "the model, of which the hash is known": (dict(made_of={"model": "0" * 64}), "another model than this one"),
    "the input": ({}, "another input than "),
}


@pytest.mark.parametrize("changed, why", CHANGES.values(), ids=CHANGES)
def test_a_folder_that_was_begun_with_something_else_is_refused_by_name(place, changed, why):
    bulk(place, 1, 2, made_of={"model": "f" * 64} if "model" in why else ABOUT)
    before = sorted(os.listdir(place[1].with_name("out.chunks")))
    if not changed:
        place[0].write_text(LINES + "one more\n")
    with pytest.raises(ValueError) as error:
        bulk(place, 0, 2, **changed)
    why += str(place[0]) if "input" in why else ""
    remedy = "; give the same again, another --out, or delete the folder"
    assert why in str(error.value) and str(error.value).endswith(remedy)
    assert sorted(os.listdir(place[1].with_name("out.chunks"))) == before


def test_other_options_make_another_output_in_its_place(place):
    bulk(place)
    assert bulk(place, made_of={}) == bulk(place) == Bulk(4, [], 23)
    assert_whole(place[1], LINES.encode())


# What is not ours

NAMES = ["out", "out.refused", "out.made_of.json"]


def left_as_it_was(folder: Path, work, named: str):
    "`work` is refused in one sentence that names the file, and what was in the folder is as it was."
    before = {path: os.readlink(path) if path.is_symlink() else path.read_bytes() for path in files_in(folder)}
    told = f"{named} would be replaced, and no record .*; give another --out, or delete it"
    with pytest.raises(ValueError, match=told):
        work()
    for path, data in before.items():
        assert (os.readlink(path) if path.is_symlink() else path.read_bytes()) == data


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]


@pytest.mark.parametrize("kind", ["lines", "JSON", "nothing", "a link to nothing"])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("streamed", [False, True], ids=["a file", "a stream"])
@pytest.mark.parametrize("name", NAMES)
def test_what_was_not_made_in_bulk_is_refused_before_anything_is_answered(place, name, streamed, rank, kind):
    path = place[1].with_name(name)
    path.parent.mkdir()
    if "link" in kind:
        path.symlink_to("nothing")
    else:
        path.write_text({"lines": "a year's work\n", "JSON": '{"outputs": {"out": 1}}', "nothing": ""}[kind])
    given = io.BytesIO(LINES.encode()) if streamed else place[0]
    if name == "out" and "link" in kind:    # a name for a file that is not there yet
        assert bulk((place[0], path)).lines == 23 and path.resolve().name == "nothing"
        return

    def work():
        bulk((given, place[1]), rank, 2, answer=lambda lines: pytest.fail("the work has begun"))

    left_as_it_was(path.parent, work, name)
    assert os.listdir(path.parent) == [name]


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_to_lie_there_while_the_lines_are_answered_is_refused_and_no_answer_is_lost(place, name):
    bulk(place, 1, 2)
    path = place[1].with_name(name)

    def meanwhile(lines):
        path.write_text("somebody's")
        return capitals(lines)

    left_as_it_was(path.parent, lambda: bulk(place, 0, 2, answer=meanwhile), name)
    assert path.read_text() == "somebody's"
    left_as_it_was(path.parent, lambda: bulk(place, 1, 2), name)
    path.unlink()
    assert bulk(place, 0, 2, answer=lambda lines: pytest.fail("it was answered")) == Bulk(4, [], 23)
    assert_whole(place[1], LINES.encode())


def test_complaints_that_no_record_names_are_somebodys(place):
    place[0].write_text("no complaint\n")
    bulk(place)
    refused = place[1].with_name("out.refused")
    refused.write_text("notes")
    for made_of in (ABOUT, {}):
        left_as_it_was(refused.parent, lambda about=made_of: bulk(place, made_of=about), "out.refused")


def test_a_record_that_is_gone_leaves_the_output_to_its_owner(place):
    bulk(place)
    place[1].with_name("out.made_of.json").unlink()
    left_as_it_was(place[1].parent, lambda: bulk(place), "out and .*out.refused")


def quiet(lines):
    return ((line, None) for line in lines)


def test_another_that_puts_together_at_the_same_time_is_no_stranger(place, monkeypatch):
    whole, exists = in_bulk._put_together, os.path.lexists

    def disturbed(nth, *given):
        "Put together, while after the nth look at a name another process does all of it."
        looks = count(1)

        def look(path):
            found = exists(path)
            if next(looks) == nth:
                whole(*given)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(os.path, "lexists", look)
            return whole(*given)

    for nth in range(1, 7):
        for answer, refused in ((capitals, 4), (quiet, 0)):    # complaints come, and go
            monkeypatch.setattr(in_bulk, "_put_together", partial(disturbed, nth))
            about = {"answer": answer.__name__}
            assert bulk(place, made_of=about, answer=answer) == Bulk(refused, [], 23)
            made = ["out", "out.made_of.json", "out.refused"][: 3 if refused else 2]
            assert sorted(os.listdir(place[1].parent)) == made


@pytest.mark.parametrize("name", ["out.refused", "out.made_of.json"])
def test_lines_that_the_output_would_replace_are_refused(place, name):
    bulk(place)
    with pytest.raises(ValueError, match=f"{name} is the input and the output; give two names"):
        bulk((place[1].with_name(name), place[1]))
    assert_whole(place[1], LINES.encode())


def test_only_folders_that_a_run_has_named_are_deleted(place):
    mine = place[1].with_name("out.chunks-old.part")
    mine.mkdir(parents=True)
    (mine / "mine").write_text("mine")
    bulk(place)
    assert (mine / "mine").read_text() == "mine"


def test_an_input_that_changes_on_the_way_is_refused(place):
    def changing(lines):
        place[0].write_text(LINES + "one more\n")
        return capitals(lines)

    with pytest.raises(ValueError, match="lines was changed while it was read; delete .*out.chunks, and give the same"):
        bulk(place, answer=changing)
    assert not place[1].exists()


def test_an_answer_that_is_missing_is_an_error(place):
    with pytest.raises(ValueError, match="zip"):
        bulk(place, answer=lambda lines: list(capitals(lines))[1:])
    assert not place[1].exists() and sorted(os.listdir(place[1].with_name("out.chunks"))) == ["made_of.json"]


@pytest.mark.parametrize("nth", range(1, 11))
def test_a_full_disk_is_told_with_the_remedy_and_nothing_is_lost(place, monkeypatch, nth):
    whole, left = whole_files.write_new, [nth]

    def full(path, data=b"", like=None):
        left[0] -= ".chunks" in str(path)
        if ".chunks" in str(path) and not left[0]:
            whole(path, data[: len(data) // 2], like)
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(path, data, like)

    for module in (whole_files, in_bulk):
        monkeypatch.setattr(module, "write_new", full)
    with pytest.raises(OSError, match="answers cannot be kept beside .* [(]No space left .*; make room") as error:
        bulk(place)
    assert error.value.errno == errno.ENOSPC and not place[1].exists()
    assert bulk(place) == Bulk(4, [], 23)
    assert_whole(place[1], LINES.encode())


# Standard input


def test_a_stream_is_copied_once_and_compared_when_it_comes_again(place, monkeypatch):
    def streamed(data, rank=0, world=2):
        return bulk((io.BytesIO(data), place[1]), rank, world)

    data = LINES.encode()
    assert streamed(data) == Bulk(0, [1])
    assert place[1].with_name("out.chunks").joinpath("input").read_bytes() == data
    with pytest.raises(ValueError, match="begun with another input"):
        streamed(data + b"more")
    assert streamed(data) == streamed(b"") == Bulk(0, [1])
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert streamed(b"what a rank that died has left") == Bulk(0, [1])
    assert streamed(b"nobody reads it", 1) == Bulk(4, [], 23)
    assert_whole(place[1], data)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    assert streamed(data) == streamed(b"") == streamed(b"", 1) == Bulk(4, [], 23)
    with pytest.raises(ValueError, match="was made of another input by the same command; delete it, or give another"):
        streamed(b"other lines")
    assert_whole(place[1], data)


def test_a_stream_that_was_read_in_part_is_not_taken_for_all(place, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(ValueError, match="read in part by a process that died; give the same command again"):
        bulk((io.BytesIO(b"the rest"), place[1]))
    assert os.listdir(place[1].parent) == []


def test_who_waits_for_a_copy_that_nobody_makes_is_told_and_a_slow_copy_is_waited_for(place, monkeypatch):
    part, slept = place[1].with_name("out.chunks-abcd.part"), []
    monkeypatch.setattr(in_bulk, "_PATIENCE", 0)

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            part.rmdir()
            assert bulk((io.BytesIO(LINES.encode()), place[1]), 0, 2) == Bulk(0, [1])

    monkeypatch.setattr(in_bulk.time, "sleep", sleep)
    part.mkdir(parents=True)
    assert bulk((io.BytesIO(b""), place[1]), 1, 2) == Bulk(4, [], 23) and len(slept) == 3
    other = place[1].with_name("other")
    with pytest.raises(ValueError, match="rank 0 makes no copy of standard input beside .*other; start it too"):
        bulk((io.BytesIO(b""), other), 1, 2)
    assert not list(other.parent.glob("other*"))


# The command


def start(arguments, rank=0, world=1, **options):
    environment = PLAIN | ({"RANK": str(rank), "WORLD_SIZE": str(world)} if world > 1 else {})
    command = [sys.executable, "-m", "annotated_decoder", *map(str, arguments)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return subprocess.Popen(command, env=environment, **pipes | options)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    "More lines than two chunks have, some of them refused."
    path = tmp_path_factory.mktemp("words") / "words"
    chance = random.Random(5)
    drawn = ["".join(chance.choices("abdegilmnoprst", k=chance.randint(1, 3))) for _ in range(2_300)]
    drawn = [*drawn[:8] * 128, *sorted({*drawn})[:520] * 2][:2_048] + drawn[:252]    # of 1,024, PyTorch says the second
    drawn[7], drawn[1030], drawn[2299] = "r2d2", "", "\ufeffcafé x3"
    path.write_bytes("\n".join(drawn).encode() + b"\r\ncaf\xff\nlast")
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    "Run the command line in this process, as a rank of a world: exit status and the two streams."

    def run(*arguments, stdin=b"", rank=None, world=None):
        for name, value in (("RANK", rank), ("WORLD_SIZE", world)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, str(value))
        monkeypatch.setattr(sys, "argv", ["annotated-decoder", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        return cli.main(), *capsys.readouterr()

    return run


ASKED = ("pronounce", "--format", "ipa", "--best", "1")


def test_worlds_write_what_the_command_writes_alone(run, words, tmp_path):
    _, plain, complaints = run(*ASKED, stdin=words.read_bytes())
    outs = [tmp_path / "made" / str(world) for world in (1, 2, 3)]
    assert run(*ASKED, "--in", words, "--out", outs[0])[0] == 1
    first = start([*ASKED, "--in", words, "--out", outs[1]], 1, 2)
    for rank, world in ((0, 2), (2, 3), (1, 3)):
        run(*ASKED, "--in", words, "--out", outs[world - 1], rank=rank, world=world)
    first.communicate()
    (doomed := start([*ASKED, "--in", words, "--out", outs[2]], 0, 3)).kill()
    assert doomed.wait() == -signal.SIGKILL and not outs[2].exists()
    status, _, told = run(*ASKED, "--in", words, "--out", outs[2])    # alone, where a world of 3 broke off
    lines = f"{len(words.read_bytes().splitlines())} lines, 4 of them refused"
    assert (status, told) == (1, f"{outs[2]} is written: {lines}: {outs[2]}.refused says which, and why\n")
    assert {out.read_bytes() for out in outs} == {plain.encode("utf-8", "surrogateescape")}
    for out in outs:
        refused = out.with_name(f"{out.name}.refused").read_text().splitlines()
        assert [f"line {line.replace(chr(9), ': ', 1)}" for line in refused] == complaints.splitlines()
    assert len(os.listdir(tmp_path / "made")) == 9


SMALL = b"cat\nr2d2\n\ncaf\xe9\r\nDecoder\n\xef\xbb\xbfzoo"
FORMS = ["", "--best 3", "--dictionary --best 2", "--format json", "--format ipa --beam 4"]


@pytest.mark.parametrize("options", FORMS)
def test_the_output_is_what_stands_on_standard_output_without_it(run, tmp_path, options):
    (tmp_path / "in").write_bytes(SMALL)
    status, out, err = run("pronounce", *options.split(), stdin=SMALL)
    given = {"": ("--in", tmp_path / "in")}.get(options, ())    # else from standard input
    made = tmp_path / "out"
    written = f"{made} is written: 6 lines, 3 of them refused: {made}.refused says which, and why"
    found = run("pronounce", *options.split(), *given, "--out", tmp_path / "out", stdin=b"" if given else SMALL)
    assert found == (status, "", f"{written}\n")
    assert (tmp_path / "out").read_text() == out and status == 1
    refused = [f"line {line.replace(chr(9), ': ')}" for line in (tmp_path / "out.refused").read_text().splitlines()]
    assert refused == err.splitlines()


def test_complaints_are_no_failure_for_torchrun(run, tmp_path, monkeypatch):
    (tmp_path / "in").write_bytes(b"cat\nx2\n")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    status, _, err = run("pronounce", "--in", tmp_path / "in", "--out", tmp_path / "out", rank=0, world=1)
    refused = f"{tmp_path / 'out'}.refused says which, and why"
    assert (status, err) == (0, f"{tmp_path / 'out'} is written: 2 lines, 1 of them refused: {refused}\n")
    assert (tmp_path / "out.refused").read_text().startswith("2\t'x2'")
    assert run("pronounce", "x2")[0] == 1                             # where torchrun waits for nobody


def test_one_that_ends_before_the_others_says_so_and_succeeds(run, tmp_path):
    (tmp_path / "in").write_bytes(b"cat\n" * 2_000 + b"x2\n")
    ask = ("pronounce", "--in", tmp_path / "in", "--out", tmp_path / "out")
    told = f"rank 0 of 3 is done, rank 1 not yet; who ends last writes {tmp_path / 'out'}\n"
    assert run(*ask, rank=0, world=3) == (0, "", told)
    assert run(*ask, rank=1, world=3)[0] == 1 == run(*ask, rank=2, world=3)[0]
    assert (tmp_path / "out.refused").read_text().startswith("2001\t'x2'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_marian(tmp_path_factory.mktemp("marian"))


def test_translations_are_those_of_the_command_alone(run, folder, tmp_path):
    lines = [*TEXTS, "", "knight " * 60, *(f"{a} {b}" for a in TEXTS[0].split() for b in TEXTS[5].split())] * 6
    (tmp_path / "in").write_text("\n".join(lines), encoding="utf-8")
    ask = ("translate", "--model", folder, "--prefix", "the ", "--max-length", "4", "--batch-size", "7")
    status, out, err = run(*ask, stdin=(tmp_path / "in").read_bytes())
    both = (*ask, "--in", tmp_path / "in", "--out", tmp_path / "out")
    told = f"rank 1 of 2 is done, rank 0 not yet; who ends last writes {both[-1]}\n"
    assert run(*both, rank=1, world=2) == (0, "", told)
    assert run(*both, rank=0, world=2)[0] == 1 == status
    assert (tmp_path / "out").read_text() == out and out.count("\n") == len(lines) > 256
    refused = [f"line {line.replace(chr(9), ': ', 1)}" for line in (tmp_path / "out.refused").read_text().splitlines()]
    assert refused == err.splitlines() and any("knight" in line for line in refused)


def test_another_model_in_the_same_folder_is_another(run, folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "in").write_text("the cat\n" * 257)
    ask = ("translate", "--model", model, "--in", tmp_path / "in", "--out", tmp_path / "out")
    run(*ask, rank=0, world=2)
    settings = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps(settings | {"max_length": 9}))
    status, _, err = run(*ask, rank=1, world=2)
    told = "was begun with another model than this one; give the same again, another --out, or delete the folder\n"
    assert status == 2 and err.endswith(told) and err.count("\n") == 1


def test_a_checkpoint_that_draws_its_answers_is_refused(run, folder, tmp_path, monkeypatch):
    whole = Translator.load(folder)
    drawing = replace(whole, settings=replace(whole.settings, sampling=Sampling()))
    monkeypatch.setattr(Translator, "load", lambda *args, **options: drawing)
    status, _, err = run("translate", "--model", folder, "--out", tmp_path / "out", stdin=b"the cat")
    assert status == 2 and "draws its answers by chance" in err and os.listdir(tmp_path) == []


REFUSED = {    # the arguments, the one line on standard error
    "lines and no output": ("pronounce --in lines", "--in names the lines for --out; give both"),
    "words": ("pronounce --out o cat", "--out takes lines from --in or standard input, and words are given"),
    "a text": ("pronounce --text --out o", "--out takes lines in any order, and --text cannot; leave one of them out"),
    "steps": ("pronounce --steps --out o", "--out takes lines in any order, and --steps cannot"),
    "a stream": ("translate --stream --model m --out o", "--out takes lines in any order, and --stream cannot"),
    "no lines": ("pronounce --in nothing --out o", "'nothing': No such file or directory; check its name"),
    "a folder of lines": ("pronounce --in . --out o", ". is no file, and is read more than once; give a file, or send"),
    "a pipe of lines": ("pronounce --in pipe --out o", "pipe is no file, and is read more than once; give a file"),
    "the input itself": ("pronounce --in lines --out lines", "lines is the input and the output; give two names"),
    "a folder to write": ("pronounce --in lines --out .", "'.' is there and is no file; give the name of a file"),
    "a place in a file": ("pronounce --in lines --out lines/o", "lines/o cannot be written"),
    "complaints nowhere": ("pronounce --in lines --out taken", "taken.refused' is there and is no file"),
    "a file of somebody": ("pronounce --in lines --out wide", "wide would be replaced, and no record beside it says"),
    "UTF-16": ("pronounce --in wide --out o", "wide looks like UTF-16; convert it to UTF-8"),
    "no name": ("pronounce --in lines --out=", "is there and is no file"),
}


@pytest.mark.parametrize("arguments, why", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_in_bulk_is_one_line_before_any_work(run, monkeypatch, tmp_path, arguments, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines").write_text("cat\n")
    (tmp_path / "wide").write_text("cat\n", encoding="utf-16")
    (tmp_path / "taken.refused").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(cli, "say_words", lambda *args, **options: pytest.fail("the work has begun"))
    status, out, err = run(*arguments.split())
    assert (status, out) == (2, "")
    assert err.startswith("annotated-decoder: ") and why in err and err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("rank, world", [("1", "1"), ("x", "2"), ("-1", "2"), ("0", "0"), ("٣", "9"), ("", "2")])
def test_what_is_no_rank_of_a_world_is_refused(run, tmp_path, rank, world):
    with pytest.raises(ValueError, match=f"RANK is '{rank}' and WORLD_SIZE '{world}'; give whole numbers, a rank"):
        worker_of({"RANK": rank, "WORLD_SIZE": world})
    status, _, err = run("pronounce", "--out", tmp_path / "out", stdin=b"cat", rank=rank, world=world)
    assert status == 2 and "give whole numbers, a rank from 0 and below the size" in err


@pytest.mark.parametrize("name, rank, device", [("cuda", "5", "cuda:1"), ("cuda", None, "cuda"), ("cpu", "1", "cpu"),
                                                ("cuda:0", "1", "cuda:0"), (None, "1", None)])    # fmt: skip
def test_each_rank_of_a_machine_has_a_device_of_its_own(monkeypatch, name, rank, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert cli._device_of_rank(name) == device


def test_utf_16_on_standard_input_is_named(run, tmp_path):
    status, _, err = run("pronounce", "--out", tmp_path / "out", stdin="cat\n".encode("utf-16"))
    assert status == 2 and "standard input looks like UTF-16" in err and os.listdir(tmp_path) == []


def test_the_others_wait_for_rank_0_to_copy_standard_input(tmp_path):
    out = tmp_path / "made" / "out"
    other = start(["pronounce", "--out", out], 1, 2, stdin=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        other.wait(1)
    first = start(["pronounce", "--out", out], 0, 2, stdin=subprocess.PIPE)
    first.communicate(b"cat\n" * 1_025)
    other.communicate()
    assert first.returncode == other.returncode == 0
    assert out.read_text() == "cat\tK AE1 T\n" * 1_025
    assert sorted(os.listdir(out.parent)) == ["out", "out.made_of.json"]
