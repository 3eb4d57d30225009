"""The voice of the instrument: the bank that tools/voice.py makes, and what the page makes of it, on Node."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from annotated_decoder.pronunciation.dictionary import read_cmudict
from annotated_decoder.pronunciation.phonemes import PHONEMES

ROOT = Path(__file__).resolve().parent.parent
PIECES = ROOT / "src" / "annotated_decoder" / "teaching" / "pieces"
BANK, VOICE = ROOT / "book" / "_static" / "voice.bin", PIECES / "voice.js"
NODE, FLITE = shutil.which("node"), shutil.which("flite")

on_node = pytest.mark.skipif(
    not NODE and os.environ.get("NODE") != "required", reason="there is no Node; in Debian: apt-get install nodejs"
)
with_flite = pytest.mark.skipif(
    not FLITE or "flite-2.2" not in subprocess.run([FLITE, "--version"], capture_output=True, text=True).stdout,
    reason="there is no flite 2.2; in Debian: apt-get install flite",
)


@cache
def load_tool():
    spec = importlib.util.spec_from_file_location("voice_tool", ROOT / "tools" / "voice.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def header():
    data = BANK.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), len(data) - 8 - length


def unit(phoneme):
    return phoneme if phoneme == "AH0" else phoneme.rstrip("012")


def first_pronunciations(step=1):
    return {word: list(found[0]) for word, found in list(read_cmudict().items())[::step]}


@pytest.fixture
def wave(tmp_path):
    "A bank of one piece, whose samples are known, packed by the tool."
    tool = load_tool()
    at = np.arange(8 * tool.PERIOD)
    samples = (9000 * np.sin(at / 5) + 4000 * np.sin(at / 2.2)).astype(int)
    about = {"rate": tool.RATE, "period": tool.PERIOD, "pairs": {"_ K": [0, 8, 3]}}
    (tmp_path / "wave.bin").write_bytes(tool.file_of(about, tool.bytes_of(samples)))
    (tmp_path / "wave.bin.json").write_text(json.dumps((samples / 2**15).tolist()))
    return str(tmp_path / "wave.bin")


def on_node_with(folder, said, **given):
    "The tests in voice.test.mjs, with these words."
    (folder / "said.json").write_text(json.dumps(said))
    shutil.copy(VOICE, folder / "voice.mjs")    # by this name Node takes it for a module
    given |= {"BANK": str(BANK), "SAID": str(folder / "said.json"), "MODULE": str(folder / "voice.mjs")}
    command = [NODE, "--test", "--test-reporter=tap", str(Path(__file__).with_name("voice.test.mjs"))]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | given)


def test_the_bank_has_every_pair_of_sounds_and_is_small():
    about, size = header()
    units = {*PHONEMES, "AH0", "_"}
    assert set(about["pairs"]) == {f"{a} {b}" for a in units for b in units} - {"_ _"}
    at = 0
    for start, periods, begin in about["pairs"].values():
        assert start == at and 0 < begin < periods - 1
        at += 1 + (periods * about["period"] + 1) // 2
    assert at == size and BANK.stat().st_size < 1_000_000


def test_the_bank_says_whose_voice_it_is_and_its_notice_is_in_the_package():
    about, _ = header()
    assert about["synthesiser"] == "flite-2.2-current, Carnegie Mellon University" and about["voice"] == "kal16"
    notice = (ROOT / about["licence"]).read_text()
    assert "Permission is hereby granted" in notice and "Kevin A. Lenzo" in notice and "voice.bin" in notice


def test_every_pronunciation_of_the_dictionary_can_be_said():
    pairs = header()[0]["pairs"]
    for word, found in read_cmudict().items():
        for said in found:
            units = ["_", *map(unit, said), "_"]
            assert all(f"{a} {b}" in pairs for a, b in zip(units, units[1:])), word


@on_node
def test_what_the_page_says(tmp_path, wave):
    said = first_pronunciations(400)
    found = on_node_with(tmp_path, said, WAVE=wave)
    assert len(said) > 250 and found.returncode == 0 and "# fail 0" in found.stdout, found.stdout + found.stderr


@with_flite
def test_the_bank_is_what_the_tool_makes(tmp_path):
    made = tmp_path / "made.bin"
    subprocess.run([sys.executable, ROOT / "tools" / "voice.py", made], check=True, capture_output=True)
    assert made.read_bytes() == BANK.read_bytes()


# ---- Is it the word? ----


@cache
def filters(n=26, size=512, rate=16000):
    "Mel filters, and the cosines that make cepstra of their logarithms."
    mels = np.linspace(*(2595 * np.log10(1 + f / 700) for f in (80, 7600)), n + 2)
    at, bins = 700 * (10 ** (mels / 2595) - 1) / rate * size, np.arange(size // 2 + 1)
    up, down = (bins - at[:-2, None]) / np.diff(at)[:-1, None], (at[2:, None] - bins) / np.diff(at)[1:, None]
    cosines = np.cos(np.pi / n * (np.arange(n) + 0.5) * np.arange(13)[:, None])
    return np.clip(np.minimum(up, down), 0, None), cosines


def cepstra(x):
    "Mel cepstra of a word every 10 ms, and their changes; silence before and behind it is cut off."
    loud = np.flatnonzero(abs(x) > 0.004)
    x = np.pad(np.diff(x[max(0, loud[0] - 80) : loud[-1] + 80], prepend=0) + 0.05 * x[0], 200)
    mel, cosines = filters()
    frames = np.lib.stride_tricks.sliding_window_view(x, 400)[::160] * np.hamming(400)
    found = np.log(abs(np.fft.rfft(frames, 512)) ** 2 @ mel.T + 5e-7) @ cosines.T
    found -= np.where(np.arange(13), found.mean(0), found.max(0))
    found[:, 0] *= 0.3
    return np.hstack([found, 2 * np.gradient(found, axis=0)])


def distances(a, others):
    "Dynamic time warping of one word to each of the others, all at once."
    longest = max(map(len, others))
    padded = np.stack([np.pad(b, ((0, longest - len(b)), (0, 0))) for b in others])
    cost = np.sqrt(((a[:, None, None] - padded.swapaxes(0, 1)) ** 2).sum(-1))    # (frame, other's frame, other)
    before = np.full((longest + 1, len(others)), np.inf)
    before[0] = 0
    for row in cost:
        now = np.full_like(before, np.inf)
        for j in range(longest):
            now[j + 1] = np.minimum(np.minimum(before[j + 1], now[j]) + row[j], before[j] + 2 * row[j])
        before = now
    ends = np.array([len(b) for b in others])
    return before[ends, np.arange(len(others))] / (len(a) + ends)


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    "Sixty words' phonemes, and the page's sound of each."
    folder = tmp_path_factory.mktemp("said")
    said = dict([*first_pronunciations(1900).items()][:60])
    found = on_node_with(folder, said, OUT=str(folder / "out.json"))
    assert found.returncode == 0, found.stdout
    return said, {word: np.array(x) / 32767 for word, x in json.loads((folder / "out.json").read_text()).items()}


def by_flite(phonemes, **settings):
    return load_tool().say(["_", *map(unit, phonemes), "_"], **settings)[0] / 32768


@on_node
@with_flite
def test_of_sixty_words_it_is_nearest_to_the_one_that_it_says(sixty):
    "Beside Flite saying the same phonemes, at its own pace and pitch; by chance: 1 of 60."
    theirs = [cepstra(by_flite(phonemes)) for phonemes in sixty[0].values()]
    table = np.stack([distances(cepstra(x), theirs) for x in sixty[1].values()])
    right = (table.argmin(1) == np.arange(len(theirs))).mean()
    print(f"{right:.1%} of {len(theirs)} words")
    assert right > 0.93


@on_node
@with_flite
def test_a_word_has_no_click_that_flites_has_not(sixty):
    "The largest step from a sample to the next, beside the largest sample; Flite on the pieces' pitch, at their pace."
    times = {}
    for word, phonemes in sixty[0].items():
        ours, theirs = (abs(np.diff(x)).max() / abs(x).max()
                        for x in (sixty[1][word], by_flite(phonemes, **load_tool().EVEN)))    # fmt: skip
        times[word] = ours / theirs
    print(times)
    assert np.median([*times.values()]) < 1.2 and np.quantile([*times.values()], 0.95) < 1.7    # hissing is by chance
    assert max(times.values()) < 2.5, max(times, key=times.get)
