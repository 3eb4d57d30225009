"""Answers come whole whatever becomes of the messages, the status tells of both, and a terminal is never steered."""

import io
import os
import subprocess
import sys
import warnings
from argparse import Namespace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speller import small_pronouncer
from test_transcribing import small as whisper  # noqa: F401  # a fixture
from test_translating import folder as checkpoint  # noqa: F401  # a fixture

from annotated_decoder import cli
from annotated_decoder.pretrained import transcribing, translating
from annotated_decoder.pronunciation import pronounce, recipe
from annotated_decoder.trained.batches import Transcription
from annotated_decoder.trained.model_file import TrainedModel

SRC = str(Path(cli.__file__).parent.parent)
PLAIN = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | {"PYTHONPATH": SRC}
KINDS = ("well", "full", "closed", "left")
ANSWER, ZOO = (f"{word}\t{' '.join(pronounce(word))}\n" for word in ("cat", "zoo"))


def opened(kind, path):
    "A stream of this kind, as a file descriptor."
    if kind == "left":
        reader, writer = os.pipe()
        os.close(reader)
        return writer
    return os.open("/dev/full" if kind == "full" else path, os.O_WRONLY | os.O_CREAT)


def unbuffered(number):
    "As under PYTHONUNBUFFERED: what cannot be written is lost at once."
    return io.TextIOWrapper(open(number, "wb", 0), write_through=True)


every_pair = pytest.mark.parametrize("out, err", [(out, err) for out in KINDS for err in KINDS])


@every_pair
def test_every_answer_comes_whatever_the_streams_and_the_status_tells(tmp_path, out, err):
    lines = "cat\nx1\n" * 1_100 + "zoo\n"    # more than are read at a time
    (tmp_path / "lines").write_text(lines)
    closing = "".join(f" {n}>&-" for n, kind in ((1, out), (2, err)) if kind == "closed")
    command = ["sh", "-c", f'"$0" -m annotated_decoder pronounce{closing}', sys.executable]
    streams = {"stdout": opened(out, tmp_path / "out"), "stderr": opened(err, tmp_path / "err")}
    with open(tmp_path / "lines") as given:
        done = subprocess.run(command, stdin=given, env=PLAIN, **streams)
    for stream in streams.values():
        os.close(stream)
    assert done.returncode == {"well": 1, "full": 2, "closed": 2, "left": 0}[out]
    if out == "well":
        assert (tmp_path / "out").read_text() == ANSWER * 1_100 + ZOO
    if err == "well":
        told = (tmp_path / "err").read_text().splitlines()
        complaints = [line for line in told if line.startswith("line ")]
        assert len(complaints) == (0 if out == "closed" else 1_100 if out == "well" else len(complaints))
        last = {"full": "standard output cannot be written", "closed": "standard output is closed"}.get(out)
        assert [line for line in told if line not in complaints] == [line for line in told[-1:] if last]
        assert last is None or last in told[-1] and ";" in told[-1]


COMMANDS = {  # arguments, standard input: the status when all is well, the number of lines answered
    "text": (["pronounce", "--text"], "A cat,\nx1!\n", 1, 2),
    "steps": (["pronounce", "--steps"], "a\nx-ray\n", 1, len(pronounce("a")) + 3),
    "train": (["train", "--out", "m"], "", 0, 1),
    "evaluate": (["evaluate"], "", 0, 3),
    "translate": (["translate", "--model", "checkpoint"], "a cat\n" + "cat " * 90 + "\na dog\n", 1, 3),
    "transcribe": (["transcribe", "--model", "whisper", "--format", "json", "bad.wav", "said.wav"], "", 1, 1),
}
COMMANDS |= {f"help, {name}": ([name, "--help"], "", 0, None)
             for name in ("pronounce", "train", "evaluate", "translate", "transcribe")}    # fmt: skip


@pytest.fixture
def started(monkeypatch, tmp_path, request):
    "The command in this process, with nothing long in it: its status."
    def train_pronouncer(*args, **options):
        warnings.warn("the words are few", stacklevel=1)
        return small_pronouncer()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "read_cmudict", lambda: {})
    monkeypatch.setattr(cli, "_scores_of", lambda *_: {"words": 0})
    monkeypatch.setattr(recipe, "train_pronouncer", train_pronouncer)
    monkeypatch.setattr(recipe, "fit_temperature", lambda *_: None)

    def start(arguments, given="", out=None, err=None):
        for name in {"checkpoint", "whisper"}.intersection(arguments):
            Path(name).symlink_to(request.getfixturevalue(name))
        if "said.wav" in arguments:
            soundfile.write("said.wav", np.sin(np.arange(2_000) / 9), 16_000)
        for name, value in (("stdin", io.StringIO(given)), ("stdout", out), ("stderr", err)):
            monkeypatch.setattr(sys, name, value)
        monkeypatch.setattr(sys, "argv", ["annotated-decoder", *arguments])
        try:
            return cli.main()
        except SystemExit as end:
            return end.code

    return start


@every_pair
@pytest.mark.parametrize("arguments, given, status, n", COMMANDS.values(), ids=COMMANDS)
def test_every_command_ends_with_the_status_of_its_streams(started, tmp_path, arguments, given, status, n, out, err):
    streams = {
        name: None if kind == "closed" else unbuffered(opened(kind, tmp_path / name))
        for name, kind in (("out", out), ("err", err))
    }    # fmt: skip
    found = started(arguments, given, **streams)
    left = 0 if arguments[0] in ("pronounce", "translate", "transcribe") else 2
    assert found == {"well": status, "full": 2, "closed": 2, "left": left}[out]
    if out == "well":
        assert n in (None, len((tmp_path / "out").read_text().splitlines()))
    if err == "well":
        told = (tmp_path / "err").read_text()
        assert "Traceback" not in told and (out != "full" or "standard output cannot be written" in told)
        assert out != "well" or bool(told) == (status != 0 or arguments[:2] == ["train", "--out"])


def test_a_file_that_is_opened_takes_no_closed_streams_place():
    script = "import os; from annotated_decoder import cli; cli._fill_gaps(); print(os.open('/', os.O_RDONLY))"
    command = ["sh", "-c", '"$0" -c "$1" <&- 2>&-', sys.executable, script]
    assert int(subprocess.run(command, capture_output=True, env=PLAIN).stdout) > 2


# What steers a terminal

HOSTILE = "c\x1b[31m\x9b2J\u202eat\x07\r\x00"
STEERING = {*map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x61C, 0x200E, 0x200F])}
STEERING |= {*map(chr, [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xDC80, 0xDD00)])}


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Text(str):
    text = property(str)
    finished = True


class Hostile:
    "Stands in for a translator whose vocabulary is somebody else's."

    model = Namespace(to=lambda device: None)

    def stream(self, given, **options):
        for line in given:
            yield ValueError(f"{line} is refused") if "x" in line else Text(f"{line} {HOSTILE}")

    def pieces(self, line):
        yield from (line, HOSTILE)

    def __call__(self, samples):
        return [transcribing.Segment(0.0, 1.0, f"a {HOSTILE}", ())]


STEERED = {  # arguments, standard input: the status
    "words": (["pronounce", "c\u202eat", HOSTILE], "", 1),
    "lines": (["pronounce"], f"c\u202eat\n{HOSTILE}\n", 1),
    "JSON": (["pronounce", "--format", "json", "c\u202eat", HOSTILE], "", 1),
    "a text": (["pronounce", "--text"], f"A {HOSTILE} 1 cat.\r\n", 1),
    "steps": (["pronounce", "--steps", "c\u202eat", HOSTILE], "", 1),
    "an option": (["pronounce", f"--{HOSTILE}"], "", 2),
    "a choice": (["pronounce", "--format", HOSTILE], "", 2),
    "a device": (["pronounce", "cat", "--device", HOSTILE], "", 2),
    "a command": ([HOSTILE], "", 2),
    "a model": (["evaluate", "--model", HOSTILE.replace("\0", "")], "", 2),
    "a place": (["train", "--out", "f/" + HOSTILE.replace("\0", "")], "", 2),
    "a new model": (["train", "--out", HOSTILE.replace("\0", "")], "", 0),
    "a checkpoint": (["translate", "--model", HOSTILE.replace("\0", "")], "", 2),
    "translations": (["translate", "--model", "m"], f"a {HOSTILE}\nx {HOSTILE}\n", 1),
    "pieces": (["translate", "--model", "m", "--stream"], f"a {HOSTILE}\n", 0),
    "speech": (["transcribe", "said.wav", "--model", "m"], "", 0),
    "subtitles": (["transcribe", "said.wav", "--format", "vtt", "--model", "m"], "", 0),
    "files": (["transcribe", HOSTILE.replace("\0", ""), "said.wav", "--model", "m"], "", 1),
    "a language": (["transcribe", "said.wav", "--language", "\u202e", "--model", "whisper"], "", 2),
}


@pytest.mark.parametrize("arguments, given, status", STEERED.values(), ids=STEERED)
def test_no_command_steers_a_terminal(started, monkeypatch, arguments, given, status):
    Path("f").write_text("no folder")
    say_words = cli.say_words

    def hostile(words, **options):
        for word, found in say_words(words, **options):
            bad = isinstance(found, ValueError)
            yield word, found if bad else [Transcription((*found[0].symbols, HOSTILE), 0.0)]

    if "json" not in arguments:
        monkeypatch.setattr(cli, "say_words", hostile)
    if arguments[-1] in ("m", "--stream"):
        for kind in (translating.Translator, transcribing.Transcriber):
            monkeypatch.setattr(kind, "load", lambda *_, **options: Hostile())
    monkeypatch.setattr(cli, "ipa", "".join)
    out, err = Terminal(), Terminal()
    assert started(arguments, given, out, err) == status
    shown = out.getvalue() + err.getvalue()
    assert shown and not STEERING & {*shown.replace("\r\n", "\n")}
    assert r"\u202e" in shown


@pytest.mark.parametrize("arguments, given", [
    (["pronounce", "c\u202eat"], ""), (["pronounce", "--text"], f"{HOSTILE}\r\n"),
])    # fmt: skip
def test_a_file_gets_what_was_given_as_it_is(started, arguments, given):
    out = io.StringIO(newline="")
    started(arguments, given, out, io.StringIO())
    assert "c\u202eat\t" in out.getvalue() if not given else out.getvalue().endswith("\x07\r\x00\r\n")


def test_a_progress_bar_may_begin_its_line_again_and_no_message_may():
    shown = io.StringIO(newline="")
    messages = cli._Messages(shown, escapes=True)
    for text in ("\r 50%\x1b[A", "\n", "\x1b[A", "\n\x1b[A", "told\rforged"):
        messages.write(text)
    assert shown.getvalue() == "\r 50%\\x1b[A\n\x1b[A\n\x1b[Atold\\rforged"


LINED = "a\nannotated-decoder:all-is-well\r\x1b[2J"


@pytest.mark.parametrize("arguments", [
    ["pronounce", "cat", f"--{LINED}"], [LINED], ["pronounce", "--beam", LINED], ["pronounce", "--format", LINED],
    ["train", "--out", "m", f"--{LINED}"], ["evaluate", LINED], ["pronounce", "cat", "--device", LINED],
])    # fmt: skip
def test_no_argument_makes_a_line_of_its_own(started, arguments):
    err = io.StringIO(newline="")
    assert started(arguments, "", io.StringIO(), err) == 2
    *usage, told = err.getvalue().split("\n")[:-1]
    assert r"a\n" in told and r"all-is-well\r" in told and "\r" not in err.getvalue() and "\x1b" not in err.getvalue()
    assert not any("all-is-well" in line for line in usage)


def test_the_name_of_a_file_makes_no_line_of_its_own(started, monkeypatch):
    out = io.StringIO()
    assert started(["train", "--out", "m\nn"], "", out, io.StringIO()) == 0
    assert r"wrote m\nn; score" in out.getvalue() and out.getvalue().count("\n") == 1
    monkeypatch.setattr(transcribing, "write_segments", lambda *_: "cat\n")
    written = cli._written([], "a\nb.wav", Namespace(format="text", files=["a\nb.wav", "c.wav"]))
    assert written == "== a\\nb.wav ==\ncat\n"


@pytest.mark.parametrize("arguments", [["pronounce", "--format", "x" * 50_000], ["pronounce", "--" + "x\x1b" * 9_000]])
def test_a_message_is_of_readable_length(started, arguments):
    err = io.StringIO()
    assert started(arguments, "", io.StringIO(), err) == 2
    told = err.getvalue().splitlines()[-1]
    assert len(told) < 1_000 and told.startswith("annotated-decoder") and " … " in told


ODD_DICTIONARIES = {    # the words listed, their entries: what is said
    "empty": ({}, "there are no predictions to score; give at least one word"),
    "no letter": ({"'": [("K",)]}, "\"'\": unknown symbols [\"'\"]; this vocabulary has a b c d e"),
    "no entry": ({"cab": []}, "'cab' has no listed pronunciation, or an empty one; list one"),
    "one column": ({"cab": [()]}, "'cab' has no listed pronunciation, or an empty one; list one"),
    "unknown symbols": ({"cab": [("K",)], "c\x1b\nab": [("K",)]}, r"'c\x1b\nab': "),
}


@pytest.mark.parametrize("listed, why", ODD_DICTIONARIES.values(), ids=ODD_DICTIONARIES)
def test_a_beam_on_an_odd_dictionary_is_scored_or_refused_in_one_line(started, monkeypatch, tmp_path, listed, why):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "read_cmudict", lambda: listed)
    monkeypatch.setattr(cli, "split_of", lambda word: "test")
    small_pronouncer().save("m")
    err = io.StringIO()
    assert started(["evaluate", "--model", "m", "--beam", "4"], "", io.StringIO(), err) == 2
    bar, told = err.getvalue().split("\n")[:-1]
    assert why in told and told.startswith("annotated-decoder: ") and "it/s" in bar


def test_a_message_is_one_line(started, tmp_path):
    err = io.StringIO()
    assert started(["evaluate", "--model", "none\nall is well\r"], "", io.StringIO(), err) == 2
    assert r"none\nall is well\r" in err.getvalue() and err.getvalue().count("\n") == 1


# What cannot be read

@pytest.mark.parametrize("arguments", [["pronounce"], ["pronounce", "--text"], ["pronounce", "--format", "json"]])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", ["cat\nnebulizing\n", "“Cat”\n", "a"])
def test_utf16_is_named_once_and_nothing_is_answered(started, arguments, encoding, text):
    if text[0] == "“" and encoding != "utf-16":
        text = text[1:]    # without a mark, only letters of one byte show it
    given = text.encode(encoding).decode("utf-8", "surrogateescape")
    out, err = io.StringIO(), io.StringIO()
    assert started(arguments, given, out, err) == 2 and not out.getvalue()
    assert err.getvalue() == (
        "annotated-decoder: standard input looks like UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)\n"
    )


@pytest.mark.parametrize("line", ["", "\n", "cat\n", "\ufeffcat", "c\0", "\0\0\0\0", "\0", "ca\0t", "é\n", "\udcffcat"])
def test_what_is_no_utf16_is_not_taken_for_it(line):
    assert cli._looks_like_utf16(line) == (line == "c\0")


def test_an_input_that_cannot_be_read_is_named(started, monkeypatch):
    class Broken(io.StringIO):
        def __next__(self):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(io, "StringIO", lambda given: Broken())
    err = Terminal()
    assert started(["pronounce"], "", Terminal(), err) == 2
    assert "standard input cannot be read (Input/output error); send lines" in err.getvalue()


@pytest.mark.parametrize("arguments, name", [
    (["translate", "--model", "m", "--prefix", ">>\udcff<<"], "prefix"),
    (["pronounce", "cat", "--device", "\udcff"], "device"),
    (["evaluate", "--device", "a\udcff"], "device"), (["train", "--out", "m", "--device", "\udcff"], "device"),
])    # fmt: skip
def test_an_option_that_is_no_utf8_is_named(started, arguments, name):
    err = io.StringIO()
    assert started(arguments, "cat\n", io.StringIO(), err) == 2
    assert f"--{name} is {arguments[-1]!r}" in err.getvalue() and "no UTF-8; give text" in err.getvalue()


def test_a_word_that_is_no_utf8_is_refused_alone_and_a_file_may_be_named_so(started):
    out, err = io.StringIO(), io.StringIO()
    assert started(["pronounce", "b\udcffd", "cat"], "", out, err) == 1
    assert out.getvalue() == ANSWER and r"word 1: 'b\udcffd' has" in err.getvalue()
    assert started(["train", "--out", "m\udcff"], "", out, err) == 0 and os.listdir() == ["m\udcff"]


@pytest.mark.parametrize("seed", [2**64, 10**30])
def test_a_seed_beyond_torchs_is_refused(started, seed):
    err = io.StringIO()
    assert started(["train", "--out", "m", "--seed", str(seed)], "", io.StringIO(), err) == 2
    assert err.getvalue() == f"annotated-decoder: --seed is {seed}; give a number below 2**64\n"


@pytest.mark.parametrize("error, system, left", [
    (BrokenPipeError(32, "Broken pipe"), "posix", True), (OSError(22, "Invalid argument"), "nt", True),
    (OSError(22, "Invalid argument"), "posix", False), (OSError(28, "No space left on device"), "nt", False),
])    # fmt: skip
def test_a_reader_that_left_is_known_by_each_systems_own_error(monkeypatch, error, system, left):
    monkeypatch.setattr(cli, "os", Namespace(name=system))
    assert cli._reader_left(error) is left


def test_a_file_that_may_not_be_read_is_named_with_the_remedy(started, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(TrainedModel, "load", forbidden)
    err = io.StringIO()
    assert started(["evaluate", "--model", "m\x1b"], "", io.StringIO(), err) == 2
    assert err.getvalue() == (
        "annotated-decoder: 'm\\x1b': Permission denied; check its name, and whether you may use it\n"
    )


@pytest.mark.parametrize("beam, size", [(1, 256), (5, 51), (100, 2)])
def test_a_wider_beam_takes_fewer_words_at_once(started, monkeypatch, beam, size):
    seen = []

    def stream(trained, words, **options):
        seen.append((options["beam"], options["batch_size"]))
        return ((word, [Transcription(("K",), 0.0)]) for word in words)

    monkeypatch.setattr(TrainedModel, "stream", stream)
    words = ["".join(letters) for letters in product("bcdfghkl", "aeiou", "bdgmnprt", "ab")]
    status = started(["pronounce", "--beam", str(beam)], "\n".join(words), io.StringIO(), io.StringIO())
    assert status == 0 and seen == [(beam, size)]
