"""Weights in a pickle are read as those of safetensors are, and a pickle that is anything else is never opened."""

import io
import json
import os
import pickle
import shutil
import struct
import time
import zipfile
from collections import OrderedDict

import pytest
import reference
import torch
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

    def __init__(self, *, key="0", length=4, start=0, shape=(4,), strides=(1,), kind="storage", dtype="FloatStorage"):
        shape, strides = (tuple([*x]) if isinstance(x, tuple) else x for x in (shape, strides))    # its own, as torch's
        self.told = (kind, Name(f"torch {dtype}"), key, "cpu", length), start, shape, strides


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
