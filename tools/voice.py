"""Make the voice of the instrument: how each sound goes over into each other one, cut from what Flite says.

python tools/voice.py [OUT]    # writes book/_static/voice.bin, the same bytes every time

The synthesiser is Carnegie Mellon University's Flite 2.2 with its voice kal16; in Debian: apt-get install flite.
Its terms, which let anyone use and change it, and its authors' names are in LICENSE-FLITE.

A piece reaches from the middle of one sound to the middle of the next, and silence is a sound too.
All are said on one pitch. Flite then puts a pulse into the middle of every period, counted from the beginning;
so a piece is a whole number of periods from pulse to pulse, and pieces join period on period.

The file is as a safetensors file is: eight bytes for the length of the header, the header in JSON, then the pieces.
`pairs` says of each where it begins, how many periods it has, and after how many the second sound begins.
A piece is one byte, the first step's index, then IMA ADPCM: four bits a sample, the lower four first. What is packed is
each sample less three quarters of the one before it: so what packing adds is low as a voice is, and not a hiss.
"""

import json
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

from annotated_decoder.pronunciation.phonemes import PHONEMES

BANK = Path(__file__).resolve().parents[1] / "book" / "_static" / "voice.bin"
RATE, PERIOD = 16000, 160
SILENCE, SCHWA = "_", "AH0"
UNITS = [*PHONEMES, SCHWA, SILENCE]
NAMES = {unit: unit.lower() for unit in PHONEMES} | {SCHWA: "ax", SILENCE: "pau"}    # in Flite
# 100 Hz, a little lower so that no period is rounded to 159 samples, and the same everywhere; faster than it speaks.
EVEN = {"int_f0_target_mean": 99.999, "int_f0_target_stddev": 0, "duration_stretch": 0.77}
QUIET = 3 * PERIOD    # how much of the silence around a word belongs to a piece


# ---- Flite ----


def flite(*options):
    return subprocess.run(["flite", *options], capture_output=True, text=True)


def say(units, **settings):
    "Samples, where in them each sound ends, and the pairs that Flite does not have."
    options = [part for name, value in settings.items() for part in ("--setf", f"{name}={value}")]
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        said = " ".join(NAMES[unit] for unit in units)
        found = flite("-voice", "kal16", *options, "-p", said, "-psdur", "-o", file.name)
        with wave.open(file.name) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    ends = [round(RATE * float(part.split(":")[1])) for part in found.stdout.split()]
    return samples, ends, [line.split()[-1] for line in found.stderr.splitlines()]


# ---- Cutting ----


def beside(unit):
    "What is said on the other side of a sound: silence, and by a consonant a schwa, for Flite has no W before silence."
    if unit == SILENCE:
        return []
    return [SILENCE] if unit[0] in "AEIOU" else [SCHWA, SILENCE]


def piece_of(first, second, between=()):
    "Samples, a whole number of periods, and after how many of them the second sound begins."
    before, after = beside(first)[::-1], beside(second)
    units = [*before, first, *between, second, *after]
    samples, ends, missing = say(units, **EVEN)
    if f"{NAMES[first]}-{NAMES[second]}" in missing:
        assert not between, missing
        return piece_of(first, second, [SCHWA])    # nobody says HH K; who tries says a schwa between
    i, j = len(before), len(units) - 1 - len(after)
    start = ends[i] - QUIET if first == SILENCE else (([0, *ends][i] + ends[i]) // 2)
    end = ends[j - 1] + QUIET if second == SILENCE else (ends[j - 1] + ends[j]) // 2
    start, begin, end = (at // PERIOD for at in (start, ends[j - 1], end))
    start, end = min(start, begin - 1), max(end, begin + 1)
    pulse = PERIOD // 2
    return samples[start * PERIOD - pulse : end * PERIOD + pulse], begin - start


# ---- Packing ----

INDEX = np.array([-1, -1, -1, -1, 2, 4, 6, 8] * 2)
STEPS = [7]
for _ in range(88):
    STEPS.append(STEPS[-1] + STEPS[-1] // 10 + 1)    # nearly the standard's table, and as easy to write in a page


def packed(values, index):
    "Four bits a value, and how far what they give is from the values (squared, summed)."
    codes, value, far = [], 0, 0
    for x in values.tolist():
        step, rest = STEPS[index], x - value
        code = (8 if rest < 0 else 0) | min(7, abs(rest) * 4 // step)
        change = (2 * (code & 7) + 1) * step >> 3
        value = min(32767, max(-32768, value - change if code & 8 else value + change))
        index = min(88, max(0, index + int(INDEX[code])))
        far += (x - value) ** 2
        codes.append(code)
    return codes, far


def bytes_of(samples):
    "A piece's bytes: the index to begin with is the one that serves its first period best."
    samples = samples.astype(int)
    changes = samples - 3 * np.append(0, samples[:-1]) // 4
    start = min(range(0, 89, 8), key=lambda index: packed(changes[:PERIOD], index)[1])
    codes, _ = packed(changes, start)
    return bytes([start, *(low | high << 4 for low, high in zip(codes[::2], codes[1::2]))])


def bank():
    "The whole file."
    pairs, data = {}, b""
    for first, second in ((a, b) for a in UNITS for b in UNITS if not a == b == SILENCE):
        samples, begin = piece_of(first, second)
        pairs[f"{first} {second}"] = [len(data), len(samples) // PERIOD, begin]
        data += bytes_of(samples)
    version = flite("--version").stdout.split("version: ")[1].split()[0]
    about = {"synthesiser": f"{version}, Carnegie Mellon University", "voice": "kal16", "licence": "LICENSE-FLITE"}
    return file_of(about | {"rate": RATE, "period": PERIOD, "pairs": pairs}, data)


def file_of(about, data):
    header = json.dumps(about, separators=(",", ":")).encode()
    return len(header).to_bytes(8, "little") + header + data


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else BANK
    out.write_bytes(bank())
    print(f"{out}: {out.stat().st_size:,} bytes")
