"""A folder in which one file is anything at all gives one sentence, soon, and takes no memory worth speaking of."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import reference
import torch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and limits as Linux has them")


def words(folder):
    "A tokenizer of a few words."
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))


def replaced(content):
    def damage(path):
        path.unlink(missing_ok=True)
        path.write_bytes(content)

    return damage


def linked(to):
    def damage(path):
        path.unlink(missing_ok=True)
        path.symlink_to(to)

    return damage


def made(make):
    def damage(path):
        path.unlink(missing_ok=True)
        make(path)

    return damage


DAMAGE = {  # what becomes of a file
    "gone": lambda path: path.unlink(missing_ok=True),
    "empty": replaced(b""),
    "one byte": replaced(b"\0"),
    "a pipe": made(os.mkfifo),
    "a folder": made(os.mkdir),
    "a link to zeros": linked("/dev/zero"),
    "a link to nothing": linked("nowhere"),
    "a link to itself": lambda path: linked(path.name)(path),
    "a link to a long name": linked("x" * 300),
    "a hole of a terabyte": made(lambda path: (path.touch(), os.truncate(path, 2**40))),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "brackets": replaced(b"[" * 200_000),
    "whole brackets": replaced(b'{"a":' * 500 + b"1" + b"}" * 500),
    "many keys": replaced(b"{" + b",".join(b'"%d":[{}]' % i for i in range(100_000)) + b"}"),
    "not a number": replaced(b'{"d_model": NaN, "max_length": Infinity, "a": -Infinity}'),
    "a long number": replaced(b'{"d_model": 1%s, "num_beams": 1%s}' % (b"0" * 400, b"0" * 400)),
    "digits without end": replaced(b'{"d_model": ' + b"9" * 10**6 + b"}"),
    "a great exponent": replaced(b'{"d_model": 1e308, "num_beams": 1e999}'),
    "a key twice": replaced(b'{"d_model": 16, "d_model": 32}'),
    "a table in it twice": replaced(b'{"a": {"b": 1, "b": 2}}'),
    "UTF-16": replaced('{"d_model": 16}'.encode("utf-16")),
    "UTF-32": replaced('{"d_model": 16}'.encode("utf-32")),
    "no UTF-8": replaced(b'{"a": "\xff"}'),
    "half a letter": replaced(b'{"model_type": "\\ud800", "activation_function": "\\ud800\\n\\u0007"}'),
    "control characters": replaced(b'{"weight_map": {"a\\nb": "\\u0000\\n/x.safetensors"}}'),
    "a name of 300 letters": replaced(json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}}).encode()),
    "an empty object": replaced(b"{}"),
}
FILES = {  # the files of three whole folders
    "safe": ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"],
    "pickled": ["pytorch_model.bin"],
    "shards": ["model.safetensors.index.json"],
    "pickled shards": ["pytorch_model.bin.index.json"],
}

CHILD = """
import json, resource, signal, sys, time
from pathlib import Path
from annotated_decoder.pretrained.loading import Checkpoint, load_pretrained
from annotated_decoder.pretrained.tokenizing import load_tokenizer
def cut(name):
    made = load_tokenizer(Path(name))
    made.decode(made.encode("a cat sat"))
jobs = json.load(sys.stdin)
checkpoint = (load_pretrained, lambda x: Checkpoint(x).decoding(), lambda x: Checkpoint(x).tokenizer())
calls = dict(checkpoint=checkpoint, tokenizer=[cut])[sys.argv[1]]
for call in calls * 2:
    call(jobs[0])
have = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (have + 2**30, have + 2**30))
def late(*_):
    raise TimeoutError("late")
signal.signal(signal.SIGALRM, late)
for name in jobs:
    said, start = [], time.monotonic()
    for call in calls:
        signal.alarm(5)
        try:
            call(name)
            said.append(["", ""])
        except BaseException as error:
            said.append([type(error).__name__, str(error)])
        signal.alarm(0)
    print(json.dumps([name, time.monotonic() - start, said]), flush=True)
"""


def said_of(folders, calls):
    "What a process of its own says of every folder, and how long it took; the first is whole."
    command, given = [sys.executable, "-c", CHILD, calls], json.dumps(list(map(str, folders)))
    run = subprocess.run(command, input=given, capture_output=True, text=True, timeout=240)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(folders), (len(lines), len(folders), folders[len(lines)], run.stderr[-2000:])
    return {Path(name).name: (seconds, said) for name, seconds, said in lines}


def damaged(whole, files):
    "The whole folder, and for each of its files and each damage a copy."
    folders = [whole]
    for file in files:
        for what, damage in DAMAGE.items():
            shutil.copytree(whole, copy := whole.parent / f"{file}: {what}")
            damage(copy / file)
            folders.append(copy)
    return folders


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    "What a process of its own says of every folder."
    home = tmp_path_factory.mktemp("wild")
    state = reference.write(home / "safe", "bart").state_dict()
    reference.write(home / "shards", "bart", shards="10KB")
    for kind in ("pickled", "pickled shards"):
        shutil.copytree(home / "safe", home / kind)
        (home / kind / "model.safetensors").unlink()
    torch.save(state, home / "pickled" / "pytorch_model.bin")
    torch.save(state, home / "pickled shards" / "pytorch_model-00001-of-00001.bin")
    where = {"weight_map": dict.fromkeys(state, "pytorch_model-00001-of-00001.bin")}
    (home / "pickled shards" / "pytorch_model.bin.index.json").write_text(json.dumps(where))
    folders = []
    for kind, files in FILES.items():
        words(home / kind)
        folders += damaged(home / kind, files)
    return said_of(folders, "checkpoint")


def check_said(name, seconds, said):
    "That all is loaded or refused in one sentence, soon."
    for kind, text in said:
        assert kind in ("", "ValueError", "OSError"), (name, kind, text)
        assert text.isprintable() and len(text) < 1000, (name, text)
        assert text.count("/wild") <= 1 + text.count("/dev/"), (name, text)
    assert seconds < 5, (name, seconds)


def test_anything_at_all_is_loaded_or_refused_in_one_sentence(wild):
    for name, (seconds, said) in wild.items():
        check_said(name, seconds, said)
    assert all(said == [["", ""]] * 3 for _, said in map(wild.get, FILES))


SAID = {  # what is said where a file is no file, in every case
    "a pipe": "is no regular file",
    "a folder": "is no regular file",
    "a link to zeros": "is no regular file",
    "a link to nothing": "is a link to nothing",
}


@pytest.mark.parametrize("what", SAID)
@pytest.mark.parametrize("file", [file for files in FILES.values() for file in files if file != "tokenizer.json"])
def test_what_is_no_file_is_named(file, what, wild):
    kind, text = wild[f"{file}: {what}"][1][0]
    assert kind == "ValueError" and f"/{file} {SAID[what]}" in text, text


@pytest.mark.parametrize(
    "what, part",
    {
        "UTF-16": "is UTF-16, and JSON is UTF-8",
        "UTF-32": "is UTF-32, and JSON is UTF-8",
        "no UTF-8": "can't decode byte 0xff",
        "a key twice": "it has 'd_model' twice",
        "a table in it twice": "it has 'b' twice",
        "brackets": "its brackets are deeper than 64",
        "whole brackets": "its brackets are deeper than 64",
        "digits without end": "it has a number of 1000000 digits",
        "a hole of a terabyte": "has 1099511627776 bytes, over",
    }.items(),
)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", *FILES["shards"], *FILES["pickled shards"]])
def test_what_is_no_json_is_said_why(what, part, file, wild):
    assert part in wild[f"{file}: {what}"][1][0][1]
