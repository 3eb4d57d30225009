"""The kinds of input that `fuzz.py` tries: what works, how it is damaged, and how it is used."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from damage import (
    STEERING,
    Fault,
    check_sentence,
    damage_bytes,
    damage_file,
    damage_json,
    damage_value,
    either,
    telling,
    wild,
    wild_text,
)
from safetensors.torch import load_file, save_file

MEMORY = 2**30    # bytes that an input may take, more than whole ones do


class Kind(NamedTuple):
    "A kind of input: each is a folder, the copy of a specimen, that is damaged and then used."

    specimens: tuple[str, ...]
    damage: Callable
    use: Callable


# Specimens: what works


def write_specimens(home: Path, kinds) -> None:
    "Each specimen of these kinds in a folder of its own."
    for name in {name for kind in kinds for name in (KINDS | PLANTED)[kind].specimens}:
        make = next(make for start, make in MAKE.items() if name.startswith(start))
        (home / name).mkdir()
        make(home / name, name)


def make_model(folder, name):
    from speller import small_pronouncer

    small_pronouncer(max_len=8).save(folder / "model")


def make_checkpoint(folder, name):
    import reference
    import tokenizers
    from test_translating import write_marian

    if name == "marian":
        write_marian(folder)
        return
    wide = dict(num_mel_bins=80, max_source_positions=1500, encoder_layers=1) if name == "whisper" else {}
    model = reference.write(folder, name.removesuffix(".bin"), **wide)
    words = tokenizers.models.WordLevel({"<unk>": 3, "a": 5, "the": 6, "cat": 7}, unk_token="<unk>")
    tokenizers.Tokenizer(words).save(str(folder / "tokenizer.json"))
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
        old = name.startswith("t5")
        torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not old)


def make_pieces(folder, name):
    from test_tokenizing import make
    from test_translating import bytes_of_a_tokenizer

    bytes_of_a_tokenizer(folder) if name == "pieces.bytes" else make(folder, name.removeprefix("pieces."))


def make_onnx(folder, name):
    from test_onnx_export import KINDS, export_onnx, model

    export_onnx(model(**KINDS["post-norm"]), folder)


def a_run():
    from speller import examples_of, small_pronouncer

    from annotated_decoder.trained.resuming import TrainingRun
    from annotated_decoder.training import TrainingConfig

    trained = small_pronouncer(d_model=8, d_ff=8)
    return TrainingRun(trained.model, examples_of(trained), TrainingConfig(epochs=2, letters_per_batch=9))


def make_state(folder, name):
    from annotated_decoder.trained.checkpoints import Checkpoints

    run = a_run()
    next(iter(run))
    Checkpoints(folder).save(1, run.state_dict())


def make_command(folder, name):
    from test_translating import write_marian

    make_model(folder, name)
    (folder / "checkpoint").mkdir()
    write_marian(folder / "checkpoint")
    (folder / "given.json").write_text(json.dumps([["pronounce", "cat"], ""]))


def make_pairs(folder, name):
    from speller import small_pronouncer

    words = [a + b + c for a in "abcd" for b in "abcd" for c in ("", "a", "d")]
    text = "".join(f"{word}\t{' '.join(word[::-1])}\n" for word in words)
    if name == "pairs.tokens":    # with a mark, ends of another system, empty lines, two answers, é in both its forms
        lines = [f"{a} un \u00e9t\u00e9 {b}\tein {b} e\u0301t {a}" for a in words[:9] for b in words[:9]]
        text = "\ufeff" + "\r\n\r\n".join([*lines, lines[0] + "!", *lines[:3]])
    (folder / "pairs").write_bytes(text.encode())
    (folder / "given.json").write_text("[]")
    model = small_pronouncer(d_model=8, d_ff=8)
    model.notes["pairs"] = {"source": "letters", "target": "tokens"}
    model.save(folder / "model")


def make_data(folder, name):
    import numpy as np
    import soundfile

    tone = (np.sin(np.arange(9_000) / 5) / 2).astype(np.float32)
    for name in SOUNDS:
        soundfile.write(folder / name, tone, 8_000)
    (folder / "text").write_bytes("A cat, 3 “dogs” — e.g. x-ray’s.\r\nÉtude https://a.b/c CSR\n".encode() * 3)


MAKE = {
    "model": make_model, "pieces": make_pieces, "onnx": make_onnx, "state": make_state, "command": make_command,
    "data": make_data, "pairs": make_pairs, "": make_checkpoint,
}    # fmt: skip


# Damage that is a kind's own


def forge_model(rng, folder):
    "Another header or other weights, in most cases under the right hash."
    from test_lies import forge

    from annotated_decoder.trained.model_file import read_model

    path, dice = folder / "model", rng.random()
    if dice < 0.3:
        return path.write_bytes(damage_bytes(rng, path.read_bytes()))
    about, tensors = read_model(path)
    about = json.loads(json.dumps(about))
    if dice < 0.8:
        damage_value(rng, about)
    else:
        name = rng.choice([*tensors])
        tensors[wild_text(rng) if rng.random() < 0.2 else name] = wild_tensor(rng, tensors[name])
    try:
        forge(path, about, tensors)
    except Exception:    # safetensors cannot write it
        path.write_bytes(damage_bytes(rng, path.read_bytes()))


def wild_tensor(rng, like=None):
    like = torch.zeros(2, 3) if like is None else like
    return rng.choice([
        like.reshape(-1), like.double(), like * torch.nan, like[:0], like[..., None], like.to(torch.int64), like * 1e5,
    ]).contiguous()    # fmt: skip


def damage_tensors(rng, folder):
    "Tensors gone, renamed, of another shape or kind; or bytes."
    path = next(folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).exists())
    if rng.random() < 0.5:
        return path.write_bytes(damage_bytes(rng, path.read_bytes()))
    safe = path.suffix == ".safetensors"
    tensors = dict(load_file(path) if safe else torch.load(path))
    damage_value(rng, tensors, lambda rng: wild_tensor(rng) if safe else rng.choice([wild_tensor, wild])(rng))
    tensors = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
    try:
        save_file(tensors, path, metadata={"format": "pt"}) if safe else torch.save(tensors, path)
    except Exception:
        path.write_bytes(damage_bytes(rng, path.read_bytes()))


def damage_onnx(rng, folder):
    "Its JSON, or one of its two files, under the right hash or not."
    if rng.random() < 0.8:
        return damage_json("model.json")(rng, folder)
    said, name = json.loads((folder / "model.json").read_bytes()), rng.choice(["encoder.onnx", "decoder.onnx"])
    data = damage_bytes(rng, (folder / name).read_bytes())
    (folder / name).write_bytes(data)
    if rng.random() < 0.5:
        said["sha256"][name] = hashlib.sha256(data).hexdigest()
    (folder / "model.json").write_text(json.dumps(said))


def damage_state(rng, folder):
    "Another state under the right hash, or bytes under any."
    path, buffer = folder / "step-1" / "state.pt", io.BytesIO()
    data = damage_bytes(rng, path.read_bytes())
    if rng.random() < 0.7:
        state = json_like(torch.load(path))
        damage_value(rng, state, lambda rng: rng.choice([wild, wild, wild_tensor])(rng))
        with suppress(Exception):    # what cannot be written is not tried
            torch.save(state, buffer)
            data = buffer.getvalue()
    path.write_bytes(data)
    if rng.random() < 0.9:
        (path.parent / "sha256").write_text(hashlib.sha256(data).hexdigest())


def write_words(rng, folder):
    "A dictionary, which is none of that one hash."
    (folder / "words").write_bytes(damage_bytes(rng, b"a AH0\na(2) EY1\ncat K AE1 T # a comment\n"))


def json_like(value):
    "The same of plain dicts and lists."
    if isinstance(value, dict):
        return {key: json_like(each) for key, each in value.items()}
    return [json_like(each) for each in value] if isinstance(value, list | tuple) else value


def damage_pairs(rng, folder):
    "Bytes, lines, columns, another encoding, or no file at all; in some cases cut otherwise than it asks for."
    path, dice = folder / "pairs", rng.random()
    if rng.random() < 0.3:
        ways = [rng.choice(["--source", "--target"]), rng.choice(["letters", "tokens"])]
        (folder / "given.json").write_text(json.dumps(ways))
    if dice < 0.2:
        path.write_bytes(damage_bytes(rng, path.read_bytes()))
    elif dice < 0.35:
        path.write_bytes(rng.choice(ENCODINGS)(path.read_text("utf-8")))
    elif dice < 0.4:
        path.unlink()
        rng.choice([lambda: None, path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("none"),
                    lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to("pairs"), path.touch])()
    else:
        lines = path.read_bytes().decode().split("\n")
        for _ in range(rng.choice([1, 1, 2, 4])):
            lines = damage_lines(rng, lines)
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))


ENCODINGS = [
    *(lambda text, form=form: text.encode(form, "replace")
      for form in ("latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7", "shift_jis")),
    *(lambda text, pack=pack: pack(text.encode()) for pack in (gzip.compress, bz2.compress, lzma.compress)),
    lambda text: b"\xef\xbb\xbf" * 2 + text.encode(), lambda text: text.replace("\n", "\r").encode(),
]    # fmt: skip


def damage_lines(rng, lines):
    "Lines gone, doubled, contradicted; columns gone, doubled, exchanged, of anything; very long; very many symbols."
    lines, many = [*lines], rng.choice([1, 2, 20, 300, 300, 20_000])
    at = rng.randrange(len(lines) + 1)
    one, _, other = rng.choice(lines or [""]).partition("\t")
    long, wide = rng.choice([7, 999, 1_000, 1_001, 10**6]), range(0x4E00, 0x4E00 + rng.choice([30, 1_000, 20_000]))
    far = rng.choice([1, 40, 1_000])    # this many symbols to a line, of an alphabet of up to a million
    act = rng.randrange(9)
    if act == 0:
        return lines[:at]
    if act == 1:
        return [line for line in lines if rng.random() < rng.choice([0.05, 0.5, 0.9])]
    if act == 2:
        return rng.choice([[rng.choice(lines or [""])[:999]] * many, (lines * rng.choice([2, 20]))[:20_000]])
    if act == 3:
        new = [f"{one[:9]}\t{rng.choice(lines or ['x'])[:9].strip()}{i}" for i in range(many)]
    elif act == 4:
        new = ["", "\t", one, f"{one}\t", f"\t{other}", f"{one}\t{other}\t{one}", f"{other}\t{one}", "# a"]
        new = [rng.choice(new)]
    elif act == 5:
        new = [rng.choice([f"{wild_text(rng)}\t{other}", f"{one}\t{wild_text(rng)}", wild_text(rng)])]
    elif act == 6:
        new = [rng.choice([f"{'ab' * long}\t{other}", f"{one}\t{'a ' * long}", f"{one}\t{'a' * long}", "a" * long])]
    elif act == 7:
        new = [rng.choice([f"{chr(i)}\ta", f"a{i}\t{chr(i)}", f"a {i}\tb {i}"]) for i in wide[: len(lines) * 9]]
    else:
        kinds = rng.choice([1_000, 10_000, 10_000, 10**6])
        new = [f"{one[:9]}{i}\t{' '.join(map(str, range(i, i + far)))}" for i in range(0, kinds, far)][:2_000]
    return lines[:at] + new + lines[at:]


OPTIONS = {
    "pronounce": "--text --steps --layer --beam --best --format --dictionary --device",
    "train": "--out --epochs --seed --teachers --every --float32 --device",
    "evaluate": "--model --beam --part --store --device",
    "translate": "--model --beam --stream --prefix --sentences --batch-size --max-length --source-language --device",
    "transcribe": "--model --language --task --format --beam --device",
}
VALUES = "0 1 2 3 5 -1 1.5 1e3 99999999999999999999 cpu cuda meta test json ipa ssml vtt model none . given.json"


def wild_command(rng, folder):
    "Arguments and lines of text; no text has what the system cannot hand over."
    def argument():
        text = rng.choice([rng.choice(VALUES.split()), "cat", "CSR’s", wild_text(rng)]).replace("\0", "")[:50_000]
        return os.fsdecode(text.encode("utf-8", "surrogatepass"))

    command = rng.choice([*OPTIONS, *OPTIONS, *OPTIONS, argument()])
    arguments = [command]
    if command in ("translate", "transcribe") and rng.random() < 0.8:
        arguments += ["--model", "checkpoint"]
    for _ in range(rng.randint(0, 4)):
        arguments.append(rng.choice(OPTIONS.get(command, "--version --help").split()))
        arguments += [argument()] * rng.choice([0, 1, 1])
    arguments += [argument() for _ in range(rng.randint(0, 3))]
    given = "\n".join(rng.choice(["cat", "x1", wild_text(rng), "the cat"]) for _ in range(rng.randint(0, 5)))
    data = given.encode("utf-8", "surrogatepass")
    data = damage_bytes(rng, data) if rng.random() < 0.3 else data
    (folder / "given.json").write_text(json.dumps([arguments, data.decode("latin-1")]))


# Use


def use_model(folder):
    from annotated_decoder.trained.in_numpy import NumpyModel
    from annotated_decoder.trained.model_file import TrainedModel

    for ask in (TrainedModel.load, NumpyModel):
        with telling():
            loaded = ask(folder / "model")
            loaded.transcribe(["cab"] if isinstance(loaded, TrainedModel) else "cab", beam=2)


def use_checkpoint(folder):
    from annotated_decoder.pretrained.loading import Checkpoint
    from annotated_decoder.pretrained.transcribing import Transcriber
    from annotated_decoder.pretrained.translating import Translator

    if Checkpoint(folder).family.sound:
        hears = Transcriber.load(folder)
        hears.settings.limited(3)(hears.model, torch.zeros(1, hears.features.n_mels, 3000))
        return
    translator = Translator.load(folder).limited(4)
    for answer in translator.stream(["a", "the cat"], batch_size=2):
        if isinstance(answer, ValueError):
            check_sentence(str(answer))
    list(translator.pieces("a"))


def use_pieces(folder):
    from annotated_decoder.pretrained.tokenizing import LanguageTokenizer, load_tokenizer, stream_text

    tokenizer = load_tokenizer(folder)
    if isinstance(tokenizer, LanguageTokenizer) and tokenizer.source is None:
        tokenizer = tokenizer.reading("de")
    tokenizer.decode(tokenizer.encode("the cat ☃"))
    list(stream_text(tokenizer, range(90)))


def use_onnx(folder):
    import numpy as np

    from annotated_decoder.trained.onnx_run import OnnxModel, generate_onnx

    generate_onnx(OnnxModel(folder), np.array([[3, 4, 5]]), max_steps=3)


def use_state(folder):
    from annotated_decoder.trained.checkpoints import Checkpoints

    run, state = a_run(), Checkpoints(folder).newest()
    if state is not None:
        run.load_state_dict(state)
    next(iter(run))


class Screen(io.TextIOWrapper):
    "A stream of bytes in memory that says it is a terminal."

    def isatty(self):
        return True


def use_command(folder):
    from speller import WORDS, small_pronouncer

    from annotated_decoder import cli
    from annotated_decoder.pronunciation import recipe
    from annotated_decoder.pronunciation.dictionary import split_of

    listed = {word: [tuple(said.split())] for word, said in WORDS.items()}
    listed |= {word: [("K",)] for word in ("cade", "babe", "decade", "abed", "dace", "ace") if split_of(word) == "test"}
    recipe.train_pronouncer, recipe.fit_temperature = lambda *_, **options: small_pronouncer(), lambda *_: None
    cli.read_cmudict = lambda: listed
    arguments, given = json.loads((folder / "given.json").read_text())
    if ask_command(folder, arguments, given.encode("latin-1")) == 0 and arguments[0] == "train":
        shutil.rmtree(folder)    # and the file that was asked for


def ask_command(folder, arguments, given=b""):
    "The exit status of the command in this folder; Fault where what it says is unclear."
    from annotated_decoder import cli

    os.chdir(folder)
    out, err, kept = io.BytesIO(), io.BytesIO(), (sys.stdin, sys.stdout, sys.stderr, sys.argv)
    sys.stdin = io.TextIOWrapper(io.BytesIO(given), "utf-8")
    sys.stdout, sys.stderr = Screen(out, "utf-8", newline=""), io.TextIOWrapper(err, "utf-8", newline="")
    sys.argv = ["annotated-decoder", *arguments]
    try:
        status = cli.main()
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        answers, told = (each.getvalue().decode("utf-8", "surrogateescape") for each in (out, err))
        sys.stdin, sys.stdout, sys.stderr, sys.argv = kept
    if found := STEERING.search(answers.replace("\r\n", "").replace("\n", "")):
        raise Fault(f"{found[0]!r} stands in the output {answers[:200]!r}")
    bars = r"\r[^\r\n]*(it/s|s/it)[^\r\n]*\] *|\r *\r"                  # of progress, shown and taken away
    for line in re.sub(bars, "", told).split("\n")[:-1]:
        if not line:
            continue
        check_sentence(line)
    if status not in (0, 1, 2) or (status and not told):
        raise Fault(f"the exit status is {status}, and it said {told!r}")
    return status


def use_pairs(folder):
    "What the command does with them, in a model as small as can be; of many, or long ones, a step alone."
    from annotated_decoder.trained import own_pairs
    from annotated_decoder.trained.model_file import TrainedModel

    ways = json.loads((folder / "given.json").read_text())
    is_small = read_small(folder / "pairs", ways)
    tiny = "--d-model 4 --n-heads 1 --encoder-layers 1 --decoder-layers 1 --epochs 1 --letters-per-batch 200".split()
    train = ["train", "--pairs", "pairs", "--out", "made", *ways, *tiny]
    score = ["evaluate", "--pairs", "pairs", "--model"]
    for arguments in ([*score, "model"], train, [*score, "made"]) if is_small else ():
        failed = ask_command(folder, arguments) == 2    # 1: the model can read none of the sources
        if (failed and (telling.nothing or arguments[-1] == "made")) or (failed and (folder / "made").exists()):
            raise Fault(f"{arguments} ended with status 2, with {os.listdir(folder)} there")
        if failed:
            return
    if (folder / "made").exists():
        with telling():
            lines = ["ab", "☃ \u202e a1", (folder / "pairs").read_text("utf-8").split("\t")[0]]
            for answer in own_pairs.answer_lines(TrainedModel.load(folder / "made"), lines):
                if isinstance(answer, ValueError):
                    check_sentence(str(answer))
        for name in ("made", "made.png"):
            (folder / name).unlink()


def read_small(path, ways):
    "Whether there are few short pairs, or none; of others the largest batch is tried. Fault where no line is named."
    from annotated_decoder.trained import own_pairs
    from annotated_decoder.trained.resuming import TrainingRun
    from annotated_decoder.training import TrainingConfig, epoch_batches

    with telling():
        asked = {name.strip("-"): way for name, way in zip(ways[::2], ways[1::2])}
        try:
            pairs = own_pairs.read_pairs(path, **asked)
        except ValueError as error:
            if not re.search(r"pairs, line \d+: |pairs is no file; |pairs has no pairs; ", str(error)):
                raise Fault(f"no line is named: {error}") from error
            raise
        sides = [side for one, right in pairs.listed.items() for side in (one, *right)]
        if len(sides) < 1_000 and max(map(len, sides)) < 60 and len({s for side in sides for s in side}) < 2_000:
            return True
        config = TrainingConfig(epochs=1, letters_per_batch=200)
        trained = own_pairs.model_for(pairs, d_model=4, n_heads=1, encoder_layers=1, decoder_layers=1)
        examples = own_pairs.examples_of(trained, pairs.part("training"))
        largest = max(epoch_batches(examples, config, 0), key=lambda batch: batch.source.numel() + batch.inputs.numel())
        TrainingRun(trained.model, examples, config).take_step(largest)
        return False
    return True    # the command refuses it, too


def use_data(folder):
    from annotated_decoder.pretrained.audio import read_audio
    from annotated_decoder.pronunciation.dictionary import read_cmudict
    from annotated_decoder.pronunciation.text import TEXT_FORMATS, rewrite

    text = (folder / "text").read_bytes().decode("utf-8", "surrogateescape")
    for form in TEXT_FORMATS:
        with telling():
            rewrite(text, form)
    for path in folder.glob("sound.*"):
        with telling():
            read_audio(path)
    if (folder / "words").exists():
        with telling():
            read_cmudict(folder / "words")


SOUNDS = tuple(f"sound.{form}" for form in ("wav", "flac", "ogg", "aiff"))
PIECES = ("pieces.T5", "pieces.Pegasus", "pieces.MBart", "pieces.Nllb", "pieces.M2M100")
CHECKPOINTS = ("marian", "bart", "t5, gated", "pegasus", "whisper")
KINDS = {
    "model": Kind(("model",), forge_model, use_model),
    "config": Kind(CHECKPOINTS, damage_json("config.json"), use_checkpoint),
    "generation": Kind(CHECKPOINTS, damage_json("generation_config.json"), use_checkpoint),
    "pickle": Kind(("bart.bin", "t5.bin"), damage_tensors, use_checkpoint),
    "safetensors": Kind(("marian", "bart", "whisper"), damage_tensors, use_checkpoint),
    "pieces": Kind(("marian", *PIECES), either(
        damage_json("vocab.json", "tokenizer_config.json"), damage_file("target.spm", *(n for n in (
            "source.spm", "spiece.model", "sentencepiece.bpe.model"))),
    ), use_pieces),
    "tokenizer": Kind(("pieces.bytes", "bart"), either(
        damage_json("tokenizer.json"), damage_file("tokenizer.json")), use_pieces),
    "onnx": Kind(("onnx",), damage_onnx, use_onnx),
    "state": Kind(("state",), damage_state, use_state),
    "command": Kind(("command",), wild_command, use_command),
    "pairs": Kind(("pairs.letters", "pairs.tokens"), damage_pairs, use_pairs),
    "data": Kind(("data",), either(*[damage_file("text", *SOUNDS)] * 6, write_words), use_data),
}    # fmt: skip


def plant(act):
    return Kind(("model",), lambda rng, folder: (folder / "model").write_bytes(b""), act)


def fail(error):
    raise error


PLANTED = {    # faults that have to be found
    "planted-error": plant(lambda folder: fail(KeyError("x"))),
    "planted-escape": plant(lambda folder: fail(ValueError("\x1b[31m is red; give another"))),
    "planted-file": plant(lambda folder: (folder / "left").touch()),
    "planted-hang": plant(lambda folder: time.sleep(10**6) if not (folder / "model").stat().st_size else None),
    "planted-end": plant(lambda folder: os.kill(os.getpid(), 9) if not (folder / "model").stat().st_size else None),
    "planted-memory": plant(lambda folder: bytearray(2 * MEMORY)),
    "planted-noise": plant(lambda folder: os.write(2, b"\x9b\x1b[2J")),
}    # fmt: skip
