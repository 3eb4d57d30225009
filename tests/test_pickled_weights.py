"""Weights in a pickle are read as those of safetensors are, and a pickle that is anything else is never opened."""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict

import pytest
import reference
import torch
from safetensors.torch import save_file
from test_bad_input import refusal

from annotated_decoder.pretrained.folder import open_tensors, read_pickle, stored_tensors
from annotated_decoder.pretrained.loading import load_pretrained

PICKLED, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAGIC = 0x1950A86A20F9469CFC6C    # the first number of a file from before PyTorch 1.6
KINDS = ["marian", "marian, two vocabularies", "bart", "t5", "t5, gated"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "Each kind of checkpoint as safetensors, and the state of its model."
    home = tmp_path_factory.mktemp("home")
    for kind in KINDS:
        state = reference.write(home / kind, kind).state_dict()
        torch.save(state, home / f"{kind}.bin")
    return home


def pickled(home, kind, to, **options):
    "The checkpoint with its weights in a pickle."
    folder = shutil.copytree(home / kind, to)
    (folder / "model.safetensors").unlink()
    torch.save(torch.load(home / f"{kind}.bin"), folder / PICKLED, **options)
    return folder


def same(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# The same as from safetensors


@pytest.mark.parametrize("zipped", [True, False], ids=["a zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_gives_the_model_that_safetensors_give(kind, zipped, home, tmp_path):
    folder = pickled(home, kind, tmp_path / "pickled", _use_new_zipfile_serialization=zipped)
    model, theirs = load_pretrained(folder), load_pretrained(home / kind)
    assert same(model, theirs)
    one_table = [m.projection.weight is m.decoder.embedding.tokens.weight for m in (model, theirs)]
    assert one_table[0] == one_table[1]


@pytest.mark.parametrize("zipped", [True, False], ids=["a zip", "before PyTorch 1.6"])
def test_several_pickles_give_the_same_model(zipped, home, tmp_path):
    folder, where = pickled(home, "bart", tmp_path / "pickled"), {}
    state = torch.load(folder / PICKLED)
    (folder / PICKLED).unlink()
    for n, names in enumerate((sorted(state)[::2], sorted(state)[1::2]), 1):
        file = f"pytorch_model-{n:05}-of-00002.bin"
        torch.save({name: state[name] for name in names}, folder / file, _use_new_zipfile_serialization=zipped)
        where |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    assert same(load_pretrained(folder), load_pretrained(home / "bart"))
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(where, "../" + PICKLED)}))
    refusal(ValueError, lambda: load_pretrained(folder), INDEX, "names the file '../pytorch_model.bin'")


def test_safetensors_come_before_a_pickle(home, tmp_path):
    folder = shutil.copytree(home / "bart", tmp_path / "both")
    (folder / PICKLED).write_bytes(pickle.dumps(Call(os.mkdir, str(tmp_path / "ran"))))
    assert same(load_pretrained(folder), load_pretrained(home / "bart"))


VIEWS = {
    "turned": lambda: torch.arange(6.0).view(2, 3).T,
    "a part": lambda: torch.arange(12.0)[2:8].view(2, 3),
    "every second": lambda: torch.arange(12.0)[::2],
    "one number": lambda: torch.tensor(3.0),
    "none": lambda: torch.zeros(0, 3),
    "a parameter": lambda: torch.nn.Parameter(torch.arange(3.0)),
    "bfloat16": lambda: torch.arange(3).bfloat16(),
    "float16": lambda: torch.arange(3).half(),
    "float64": lambda: torch.arange(3).double(),
    "whole numbers": lambda: torch.arange(3),
    "truths": lambda: torch.tensor([True, False]),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["a zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("tensor", VIEWS.values(), ids=VIEWS)
def test_each_kind_of_tensor_is_read_as_torch_reads_it(tensor, zipped, tmp_path):
    path, table = tmp_path / "x.bin", OrderedDict(a=tensor(), b=torch.zeros(2))
    table["again"] = table["a"]
    torch.save(table, path, _use_new_zipfile_serialization=zipped)
    stored, theirs = read_pickle(path), torch.load(path)
    with open_tensors(stored.values()) as read:
        for name, wanted in theirs.items():
            found = read(stored[name])
            assert found.dtype == wanted.dtype and torch.equal(found, wanted) and stored[name].shape == wanted.shape


def taken(stored, name):
    "A tensor in memory of its own."
    with open_tensors(stored.values()) as read:
        return read(stored[name]).clone()


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(1000)}, path)
    stored = read_pickle(path)
    path.write_bytes(path.read_bytes()[:500])
    refusal(ValueError, lambda: taken(stored, "a"), "x.bin changed while it was read", "load it again")


# Nothing runs


class Call:
    "What a pickle runs as it is opened."

    def __init__(self, function, *args):
        self.called = function, args

    def __reduce__(self):
        return self.called


class Set:
    "An object whose attributes are set by what runs."

    def __init__(self, to):
        self.to = to

    def __reduce__(self):
        return OrderedDict, (), {"_metadata": Call(os.mkdir, self.to)}


def zipped(path, program, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3")
        for key, data in dict(storages).items():
            archive.writestr(f"archive/data/{key}", data)


def by_torch(path, value, **options):
    "A file that torch.save writes."
    torch.save(value, path, **options)


RUN = {  # a pickle that would make the folder `ran`, and what is said of it
    "a call": (lambda path, ran: by_torch(path, Call(os.mkdir, ran)), "GLOBAL 'posix mkdir'"),
    "a shell": (lambda path, ran: by_torch(path, Call(os.system, f"mkdir {ran}")), "GLOBAL 'posix system'"),
    "a call in a table": (
        lambda path, ran: by_torch(path, {"a": torch.zeros(2), "b": Call(os.mkdir, ran)}),
        "GLOBAL 'posix mkdir'",
    ),
    "a call deep in a table": (
        lambda path, ran: by_torch(path, {"a": [({"b": Call(os.mkdir, ran)},)]}),
        "GLOBAL 'posix mkdir'",
    ),
    "a call in an attribute": (lambda path, ran: by_torch(path, {"a": Set(ran)}), "GLOBAL 'posix mkdir'"),
    "a call as a key": (lambda path, ran: by_torch(path, {Call(os.mkdir, ran): 1}), "GLOBAL 'posix mkdir'"),
    "a call in the old format": (
        lambda path, ran: by_torch(path, {"a": Call(os.mkdir, ran)}, _use_new_zipfile_serialization=False),
        "GLOBAL 'posix mkdir'",
    ),
    "eval": (
        lambda path, ran: zipped(path, pickle.dumps(Call(eval, f"__import__('os').mkdir({ran!r})"), protocol=2)),
        "GLOBAL '__builtin__ eval'",
    ),
    "a newer protocol": (
        lambda path, ran: zipped(path, pickle.dumps(Call(os.mkdir, ran), protocol=4)),
        "has the instruction",
    ),
    "an instance": (
        lambda path, ran: zipped(path, b"(S'" + ran.encode() + b"'\nios\nmkdir\n."),
        "has the instruction STRING",
    ),
    "no zip": (
        lambda path, ran: path.write_bytes(pickle.dumps(Call(os.mkdir, ran), protocol=2)),
        "is of no format of torch.save",
    ),
    "a second pickle": (
        lambda path, ran: path.write_bytes(
            pickle.dumps(MAGIC, protocol=2) + pickle.dumps(Call(os.mkdir, ran), protocol=2)
        ),
        "is of no format of torch.save",
    ),
    "a third pickle": (
        lambda path, ran: path.write_bytes(
            b"".join(pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, Call(os.mkdir, ran)))
        ),
        "GLOBAL 'posix mkdir'",
    ),
    "a name that is a string": (
        lambda path, ran: zipped(path, b"\x80\x02X\x0b\x00\x00\x00posix mkdirX\x01\x00\x00\x00x\x85R."),
        "holds something else than tensors by name",
    ),
}


@pytest.mark.parametrize("write, part", RUN.values(), ids=RUN)
def test_a_pickle_that_would_run_something_is_refused_and_nothing_runs(write, part, home, tmp_path, monkeypatch):
    folder, ran = shutil.copytree(home / "bart", tmp_path / "bart"), tmp_path / "ran"
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    write(folder / PICKLED, str(ran))
    message = refusal(ValueError, lambda: load_pretrained(folder), PICKLED, part, "it was not run", "save_pretrained")
    assert not ran.exists() and message.count(str(folder)) == 1


def test_a_damaged_text_in_a_pickle_is_refused_without_a_warning(home, tmp_path, recwarn):
    folder = shutil.copytree(home / "bart", tmp_path / "bart")
    (folder / "model.safetensors").unlink()
    zipped(folder / PICKLED, b"\x80\x02S'\\\x01'\n.")    # an escape that is none, before a control character
    refusal(ValueError, lambda: load_pretrained(folder), PICKLED, "has the instruction STRING")
    assert not recwarn.list


def test_torch_opens_only_what_was_looked_through_and_only_as_weights(home, tmp_path, monkeypatch):
    folder, opened, load = pickled(home, "bart", tmp_path / "pickled"), [], torch.load

    def watched(path, **options):
        opened.append((path.name, options))
        return load(path, **options)

    def refuse(*args, **options):
        raise AssertionError("a pickle was run")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", watched)
    assert [*stored_tensors(folder)] and opened == []    # names and shapes are told without it
    assert same(load_pretrained(folder), load_pretrained(home / "bart"))
    assert opened == [(PICKLED, {"map_location": "cpu", "weights_only": True, "mmap": True})]
    by_torch(folder / PICKLED, {"a": Call(os.mkdir, str(tmp_path / "ran"))})
    refusal(ValueError, lambda: load_pretrained(folder), "GLOBAL 'posix mkdir'")
    assert len(opened) == 1 and not (tmp_path / "ran").exists()


# What is not whole, or claims too much


class View:
    "A tensor as a pickle tells of it, true or not."

    def __init__(
        self, *, key="0", length=4, start=0, shape=(4,), strides=(1,), kind="storage", dtype="FloatStorage", old=False
    ):
        shape, strides = (tuple([*x]) if isinstance(x, tuple) else x for x in (shape, strides))    # its own, as torch's
        storage = (kind, Name(f"torch {dtype}"), key, "cpu", length) + (None,) * old
        self.told = storage, start, shape, strides


class Name(str):
    pass


class Writer(pickle._Pickler):
    "Pickles views by what they tell, and names by their letters."

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            module, name = obj.split(" ")
            return self.write(b"c" + f"{module}\n{name}\n".encode())
        if isinstance(obj, View):
            told, *rest = obj.told
            self.save(Name("torch._utils _rebuild_tensor_v2"))
            self.write(b"(")
            self.save(told)
            self.write(b"Q")
            for part in (*rest, False, OrderedDict()):
                self.save(part)
            return self.write(b"tR")
        return super().save(obj, save_persistent_id)


def program(value):
    out = io.BytesIO()
    Writer(out, protocol=2).dump(value)
    return out.getvalue()


def test_the_writer_writes_what_torch_reads(tmp_path):
    zipped(tmp_path / "x.bin", program({"a": View()}), {"0": struct.pack("<4f", 1, 2, 3, 4)})
    assert read_pickle(tmp_path / "x.bin")["a"].shape == (4,)
    with open_tensors(read_pickle(tmp_path / "x.bin").values()) as read:
        assert read(read_pickle(tmp_path / "x.bin")["a"]).tolist() == [1, 2, 3, 4]


def doubled(times):
    "A tuple of two of the same, and so on: of little memory, and 2^times to look through."
    value = ("a",)
    for _ in range(times):
        value = (value, value)
    return value


CLAIMS = {  # what a table tells, and what is said
    "a storage longer than it is": (View(length=5), "is not whole"),
    "a storage beyond belief": (View(length=2**60, shape=(2**60,)), "is not whole"),
    "a storage of 10^12 numbers": (View(length=10**12, shape=(10**12,)), "is not whole"),
    "more than its storage": (View(shape=(5,)), "is not whole"),
    "one number many times": (View(shape=(100, 100), strides=(0, 0)), "is not whole"),
    "a start after the end": (View(start=1), "is not whole"),
    "a start before it": (View(start=-1), "has no shape of a tensor"),
    "a step back": (View(strides=(-1,)), "has no shape of a tensor"),
    "a length that is true": (View(shape=(True,)), "holds something else than tensors by name"),
    "a length of letters": (View(shape=("4",)), "holds something else than tensors by name"),
    "a shape that is a number": (View(shape=4), "holds something else than tensors by name"),
    "strides for another shape": (View(strides=(1, 1)), "has no shape of a tensor"),
    "a hundred dimensions": (View(shape=(1,) * 100, strides=(1,) * 100), "holds something else than tensors by name"),
    "a storage that is not there": (View(key="1"), "is not whole"),
    "a storage with a number for a name": (View(key=0), "holds something else than tensors by name"),
    "a storage of another kind": (View(kind="module"), "has no shape of a tensor"),
    "a storage of an unknown type": (View(dtype="ComplexFloatStorage"), "GLOBAL 'torch ComplexFloatStorage'"),
    "a number": (3, "holds something else than tensors by name"),
    "a table in a table": ({"b": View()}, "holds something else than tensors by name"),
    "a list": ([1.5], "has the instruction BINFLOAT 1.5, which no tensor needs"),
    "a name that doubles": (View(key=doubled(60)), "repeats what is no name and no tensor"),
    "a kind that doubles": (View(kind=doubled(60)), "repeats what is no name and no tensor"),
}


@pytest.mark.parametrize("told, part", CLAIMS.values(), ids=CLAIMS)
def test_a_table_that_claims_what_is_not_there_is_refused(told, part, tmp_path):
    zipped(tmp_path / PICKLED, program({"a": told}), {"0": bytes(16)})
    start = time.process_time()
    refusal(ValueError, lambda: stored_tensors(tmp_path), PICKLED, part, "get it anew")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("table", [doubled(60), {3: View()}, View(), [View()], "a", None])
def test_what_is_no_table_of_names_is_refused(table, tmp_path):
    written = program(table)
    if isinstance(table, tuple):    # as a key, whose hash Python would be looking for until the end of days
        written = b"\x80\x02}" + written[2:-1] + b"K\x01s."
    zipped(tmp_path / PICKLED, written, {"0": bytes(16)})
    refusal(ValueError, lambda: stored_tensors(tmp_path), PICKLED, "get it anew")


def test_one_storage_serves_few_tensors(tmp_path):
    table = {str(i): View(length=10_000, shape=(10_000,)) for i in range(20)}
    zipped(tmp_path / PICKLED, program(table), {"0": bytes(40_000)})
    refusal(ValueError, lambda: stored_tensors(tmp_path), "share their numbers too often")


def renamed(data):
    "A whole zip in which two files have one name."
    return data.replace(b"archive/data/0", b"archive/data/1")


def huge(data):
    "A whole zip whose last file claims four gigabytes, in the directory and before it."
    at, entry = data.rindex(b"PK\1\2"), data.rindex(b"PK\3\4")
    size = struct.pack("<II", 2**32 - 16, 2**32 - 16)
    return data[: entry + 18] + size + data[entry + 26 : at + 20] + size + data[at + 28 :]


BROKEN = {  # what is done to the bytes of a whole zip, and what is said
    "nothing": (lambda data: b"", ""),
    "two bytes": (lambda data: data[:2], ""),
    "half": (lambda data: data[: len(data) // 2], "has no directory at its end"),
    "no end": (lambda data: data[:-1], "has no directory at its end"),
    "zeros": (lambda data: bytes(1000), ""),
    "two of one name": (renamed, "two files in it have one name"),
    "four gigabytes": (huge, "is cut off"),
    "a zip of the future": (lambda data: data.replace(b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\x65"), "it is damaged"),
    "another byte order": (lambda data: data.replace(b"little", b"bigend"), "big-endian"),
    "an archive of something else": (lambda data: data.replace(b"data.pkl", b"date.pkl"), "it is damaged"),
    "no beginning of a file": (lambda data: b"PK\3\4" + data[4:].replace(b"PK\3\4", b"PK\3\5"), "is cut off"),
    "a tar": (lambda data: b"pickle".ljust(257, b"\0") + b"ustar", ""),
}


@pytest.mark.parametrize("change, part", BROKEN.values(), ids=BROKEN)
def test_a_zip_that_is_not_whole_is_refused(change, part, tmp_path):
    with zipfile.ZipFile(tmp_path / PICKLED, "w") as archive:
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data.pkl", program({"a": View(), "b": View(key="1")}))
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/data/1", bytes(16))
    assert [*stored_tensors(tmp_path)] == ["a", "b"]
    (tmp_path / PICKLED).write_bytes(change((tmp_path / PICKLED).read_bytes()))
    refusal(ValueError, lambda: stored_tensors(tmp_path), PICKLED, part, "get it anew")


def test_a_bomb_is_not_unpacked(tmp_path):
    zipped(tmp_path / PICKLED, program({"a": View()}) + bytes(10**7), compression=zipfile.ZIP_DEFLATED)
    refusal(ValueError, lambda: stored_tensors(tmp_path), "'data.pkl' in it is packed")


def test_a_long_program_and_a_long_directory_are_not_read(tmp_path):
    zipped(tmp_path / PICKLED, program({"a": View()}) + bytes(2**20))
    refusal(ValueError, lambda: stored_tensors(tmp_path), "'data.pkl' in it has", "bytes, over 1048576")
    zipped(tmp_path / PICKLED, program({}), {f"{i:0400}": b"" for i in range(3000)})
    refusal(ValueError, lambda: stored_tensors(tmp_path), "has no directory at its end of at most 1048576 bytes")


def test_the_longest_program_takes_little_time(tmp_path):
    for filling in (b"N", b")", b"K\x01"):
        zipped(tmp_path / PICKLED, b"\x80\x02" + filling * (2**20 // len(filling) - 10) + b".")
        start = time.process_time()
        refusal(ValueError, lambda: stored_tensors(tmp_path), PICKLED)
        assert time.process_time() - start < 5


@pytest.mark.parametrize("change", ["byte order", "length", "a key more", "cut"])
def test_an_old_file_that_lies_is_refused(change, tmp_path):
    path = tmp_path / PICKLED
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    numbers = struct.pack("<q4f", 4, 1, 1, 1, 1)
    assert data.endswith(numbers)
    path.write_bytes(
        {
            "byte order": data.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"),
            "length": data.removesuffix(numbers) + struct.pack("<q4f", 5, 1, 1, 1, 1),
            "a key more": data.removesuffix(b"." + numbers) + b"X\x01\x00\x00\x00xa." + numbers,
            "cut": data[:-1],
        }[change]
    )
    refusal(ValueError, lambda: stored_tensors(tmp_path), PICKLED, "get it anew")


# What would hang, take memory, end the process or be read in two ways


def zip_of(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(f"archive/{name}", data)
    return out.getvalue()


def members(path, more, **options):
    "A zip of a table of one tensor and of more files."
    zipped(path, program({"a": View()}), {"0": bytes(16)}, **options)
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in more.items():
            archive.writestr(f"archive/{name}", data)


NUMBERS = struct.pack("<q4f", 4, 1, 2, 3, 4)


def old(table=None, keys=("0",), numbers=NUMBERS, machine=None):
    "A file from before PyTorch 1.6, from its parts."
    told = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    programs = [pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, told, list(keys))]
    programs[2] = machine or programs[2]
    programs.insert(3, table or one())
    return b"".join(programs) + numbers


def one(**view):
    "The table of an old file of one tensor."
    return program({"a": View(old=True, **view)})


def test_the_old_writer_writes_what_torch_reads(tmp_path):
    (tmp_path / "x.bin").write_bytes(old())
    assert torch.equal(taken(read_pickle(tmp_path / "x.bin"), "a"), torch.tensor([1.0, 2, 3, 4]))
    torch.save({"a": torch.ones(3)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    assert taken(read_pickle(tmp_path / "x.bin"), "a").tolist() == [1, 1, 1]


DEEP = b"\x80\x02})" + b"\x85" * 5 * 10**5 + b"K\x01s."    # a key that is a tuple in a tuple in a tuple …
HUGE = struct.pack("<L", 2**32 - 1)
KEPT = b"\x80\x02}X\x01\x00\x00\x00aq\x00"    # a table, and a text that is kept


class Sub(torch.Tensor):
    pass


HOSTILE = {
    "a deep key": lambda path: zipped(path, DEEP, {"0": bytes(16)}),
    "a deep key, old": lambda path: path.write_bytes(old(table=DEEP)),
    "a deep key of the machine's": lambda path: path.write_bytes(old(machine=DEEP)),
    "deep marks": lambda path: zipped(path, b"\x80\x02" + b"(" * 10**5 + b"t" * 10**5 + b".", {}),
    "deep lists": lambda path: zipped(path, b"\x80\x02" + b"]" * 10**5 + b"a" * 10**5 + b".", {}),
    "a text of four gigabytes": lambda path: zipped(path, b"\x80\x02}X" + HUGE + b"aK\x01s.", {}),
    "a number of 255 bytes": lambda path: zipped(path, program({"a": View(length=2**2000, shape=(2**2000,))}), {}),
    "a number of a million digits": lambda path: zipped(path, b"\x80\x02}I" + b"9" * 10**6 + b"\ns.", {}),
    "a number of four gigabytes": lambda path: zipped(path, b"\x80\x02}\x8b" + HUGE[:3] + b"\x7fa.", {}),
    "a text kept often": lambda path: zipped(path, KEPT + b"h\x00q\x01" * 2 * 10**5 + b".", {}),
    "a place in memory far away": lambda path: zipped(path, KEPT + b"r" + HUGE + b"j" + HUGE + b"s.", {}),
    "what was never kept": lambda path: zipped(path, b"\x80\x02}h\x07K\x01s.", {}),
    "nothing at all": lambda path: zipped(path, b"", {}),
    "only a keep": lambda path: zipped(path, b"q\x00.", {}),
    "protocol 4": lambda path: zipped(path, b"\x80\x04}.", {}),
    "two protocols": lambda path: zipped(path, b"\x80\x02\x80\x04}.", {}),
    "a program of TorchScript": lambda path: members(path, {"constants.pkl": b""}),
    "a second program in capitals": lambda path: members(path, {"DATA.PKL": DEEP}),
    "a second program of the same name": lambda path: zipped(path, DEEP, {"0": bytes(16), "../data.pkl": b""}),
    "a packed storage": lambda path: members(path, {"data/1": bytes(100)}, compression=zipfile.ZIP_DEFLATED),
    "a long serialization_id": lambda path: members(path, {".data/serialization_id": bytes(2**20 + 1)}),
    "a second version in capitals": lambda path: members(path, {"Version": b"3"}),
    "no version": lambda path: path.write_bytes(zip_of({"data.pkl": program({"a": View()}), "data/0": bytes(16)})),
    "an old storage in a zip": lambda path: zipped(path, one(), {"0": bytes(16)}),
    "a new storage in an old file": lambda path: path.write_bytes(old(program({"a": View()}))),
    "big-endian numbers": lambda path: members(path, {"byteorder": "big"}),
    "a tensor subclass": lambda path: by_torch(path, {"a": torch.ones(3).as_subclass(Sub)}),
    "a tensor of no numbers": lambda path: by_torch(path, {"a": torch.ones(3, device="meta")}),
    "a sparse tensor": lambda path: by_torch(path, {"a": torch.ones(3, 3).to_sparse()}),
    "complex numbers": lambda path: by_torch(path, {"a": torch.ones(3, dtype=torch.complex64)}),
    "eight bits": lambda path: by_torch(path, {"a": torch.ones(3).to(torch.float8_e4m3fn)}),
    "expanded": lambda path: by_torch(path, {"a": torch.ones(1).expand(10**6, 10**6)}),
    "old, expanded": lambda path: path.write_bytes(old(one(shape=(10**6, 10**6), strides=(0, 0)))),
    "old, a storage of 10^12 numbers": lambda path: path.write_bytes(
        old(one(length=10**12, shape=(10**12,)), numbers=struct.pack("<q4f", 10**12, 1, 2, 3, 4))
    ),
    "old, a tensor beyond its storage": lambda path: path.write_bytes(old(one(shape=(10**5,)))),
    "old, a key that is not listed": lambda path: path.write_bytes(old(keys=(), numbers=b"")),
    "old, a key that is listed twice": lambda path: path.write_bytes(old(keys=("0", "0"))),
    "old, a list in the list of keys": lambda path: path.write_bytes(old(keys=("0", ["0"]))),
    "old, bytes after the end": lambda path: path.write_bytes(old() + b"\0"),
    "a pipe": os.mkfifo,
    "a link to zeros": lambda path: path.symlink_to("/dev/zero"),
    "a hole of a terabyte": lambda path: (path.touch(), os.truncate(path, 2**40)),
    "a hole of a terabyte after a zip": lambda path: (members(path, {}), os.truncate(path, 2**40)),
    "a hole of a terabyte after an old file": lambda path: (path.write_bytes(old()), os.truncate(path, 2**40)),
}

CHILD = """
import json, resource, signal, sys, time, warnings
from pathlib import Path
from annotated_decoder.pretrained.folder import open_tensors, stored_tensors
have = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (have + 2**29, have + 2**29))
warnings.simplefilter("error")
for folder in json.load(sys.stdin):
    signal.alarm(20)
    start, said = time.process_time(), ["", ""]
    try:
        stored = stored_tensors(Path(folder))
        with open_tensors(stored.values()) as read:
            for there in stored.values():
                read(there).contiguous()
    except BaseException as error:
        said = [type(error).__name__, str(error)]
    print(json.dumps([time.process_time() - start, *said]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and limits as Linux has them")
def test_whatever_it_holds_a_file_is_refused_in_one_sentence_soon_and_without_memory(tmp_path):
    for what, write in HOSTILE.items():
        (tmp_path / what).mkdir()
        write(tmp_path / what / PICKLED)
    given = json.dumps([str(tmp_path / what) for what in HOSTILE])
    run = subprocess.run([sys.executable, "-c", CHILD], input=given, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) == len(HOSTILE), (run.returncode, [*HOSTILE][len(lines)], run.stderr[-2000:])
    for what, (seconds, kind, text) in zip(HOSTILE, lines, strict=True):
        assert kind == "ValueError" and text.isprintable() and len(text) < 600, (what, kind, text)
        assert text.count(PICKLED) == 1 and "get it anew" in text and seconds < 5, (what, seconds, text)


def zip64(data):
    "The same zip with a directory of 64 bits, as torch.save writes it."
    count, length, begin = struct.unpack("<10xHLL2x", data[-22:])
    record = b"PK\6\6" + struct.pack("<Q12x4Q", 44, count, count, length, begin)
    return data[:-22] + record + b"PK\6\7" + struct.pack("<LQL", 0, len(data) - 22, 1) + data[-22:]


def ended(data, count=0, length=0, begin=0, comment=b""):
    "A zip whose end says something else by so much, and has a comment."
    numbers = [a + b for a, b in zip(struct.unpack("<HLL", data[-12:-2]), (count, length, begin), strict=True)]
    return data[:-12] + struct.pack("<HLLH", *numbers, len(comment)) + comment


TWO_READINGS = {  # a zip in which Python and torch could see different files
    "bytes before it": lambda data: b"PK\3\4" + data,
    "a comment": lambda data: ended(data, comment=b"x"),
    "a directory elsewhere": lambda data: ended(data, begin=4),
    "a longer directory": lambda data: ended(data, length=4),
    "one file less": lambda data: ended(data, count=-1),
    "a record of 64 bits elsewhere": lambda data: zip64(data)[:-34] + struct.pack("<Q", 0) + zip64(data)[-26:],
    "a record of 64 bits that is none": lambda data: zip64(data).replace(b"PK\6\6", b"PK\6\5"),
    "a directory of 64 bits elsewhere": lambda data: zip64(data)[:-50] + struct.pack("<Q", 0) + zip64(data)[-42:],
}


@pytest.mark.parametrize("change", TWO_READINGS.values(), ids=TWO_READINGS)
def test_a_zip_of_two_readings_is_refused(change, tmp_path):
    path = tmp_path / PICKLED
    members(path, {})
    data = path.read_bytes()
    path.write_bytes(zip64(data))
    assert [*stored_tensors(tmp_path)] == ["a"]
    path.write_bytes(change(data))
    refusal(ValueError, lambda: stored_tensors(tmp_path), PICKLED, "get it anew")


@pytest.mark.parametrize("change", ["other shapes", "a call", "cut", "gone"])
def test_a_file_that_changes_before_it_is_read_is_refused(change, tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"a": torch.ones(1000)}, path)
    stored = read_pickle(path)
    if change == "other shapes":
        torch.save({"a": torch.ones(999)}, path)
    elif change == "a call":
        by_torch(path, {"a": Call(os.mkdir, str(tmp_path / "ran"))})
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    refusal(ValueError, lambda: taken(stored, "a"), "x.bin", "get it anew" if change != "gone" else "is missing")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["x.bin", "model.safetensors"])
def test_a_file_that_is_cut_while_it_is_open_is_refused(name, tmp_path):
    path = tmp_path / name
    (torch.save if name == "x.bin" else save_file)({"a": torch.ones(10**5)}, path)
    stored = read_pickle(path) if name == "x.bin" else stored_tensors(tmp_path)
    with open_tensors(stored.values()) as read:
        os.truncate(path, 1000)
        refusal(ValueError, lambda: read(stored["a"]), f"{name} changed while it was read", "load it again")


def test_whole_files_are_read_without_a_warning_in_any_mode(home, tmp_path, recwarn):
    folders = [pickled(home, "bart", tmp_path / str(z), _use_new_zipfile_serialization=z) for z in (True, False)]
    expected = load_pretrained(home / "bart")
    with torch.inference_mode(), torch.device("meta"):
        models = [load_pretrained(folder) for folder in folders]
    for model in models:
        assert same(model, expected) and not any(p.is_inference() or p.is_meta for p in model.parameters())
    with torch.inference_mode(), torch.device("meta"):
        for folder in folders:
            stored = stored_tensors(folder)
            name = min(stored)
            assert torch.equal(taken(stored, name), torch.load(folder / PICKLED, map_location="cpu")[name])
    assert [*recwarn] == []


def test_tied_tensors_and_parts_of_one_storage_are_read(tmp_path):
    table, path = torch.arange(12.0).view(4, 3), tmp_path / PICKLED
    for zipped_ in (True, False):
        state = OrderedDict(a=table, b=table, c=table[1:], d=table.T)
        torch.save(state, path, _use_new_zipfile_serialization=zipped_)
        stored = stored_tensors(tmp_path)
        for name, tensor in state.items():
            assert torch.equal(taken(stored, name), tensor) and stored[name].shape == tuple(tensor.shape)


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(3)}, tmp_path / PICKLED)
    finally:
        torch.serialization.set_crc32_options(True)
    assert taken(stored_tensors(tmp_path), "a").tolist() == [1, 1, 1]
