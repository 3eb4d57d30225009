"""Score the pronunciation model and its peers on the same words: error rates with intervals, speed, size.

    python benchmarks/peers.py

writes peers.json and, from it, peers.md, into this folder. What is measured, and how, is in the README beside it.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from systems import SYSTEMS, NotHere

from annotated_decoder.pronunciation.dictionary import intervals, read_cmudict, score, split_of
from annotated_decoder.pronunciation.recipe import machine

HERE = Path(__file__).resolve().parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
SEED, RESAMPLES = 1, 1_000
ROUNDS = 3          # of all timings; every system once in each round
ALONE = 500         # words timed one at a time, drawn from the part
LIMIT = 20.0        # seconds after which a round's words one at a time end
TIMINGS = ("first_word_seconds", "alone_per_second", "bulk_per_second")


class Worker:
    "A system in a process of its own, on one thread; `started` is how long it took to have pronounced its first word."

    def __init__(self, name: str, folder: Path):
        command = [sys.executable, str(HERE / "systems.py"), name, str(folder)]
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD
        )
        self.name = name
        self.read()
        self.started = time.perf_counter() - start

    def read(self) -> str:
        "The next line of the answer."
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}; its own message stands above")
        return line

    def ask(self, words: Sequence[str], alone: bool) -> tuple[dict[str, list[str]], float]:
        "The phonemes of the words, and how many words a second that were."
        self.process.stdin.write(json.dumps({"words": words, "alone": alone, "limit": LIMIT}) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.read())
        return answer["phonemes"], len(answer["phonemes"]) / answer["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def prepared(names: Sequence[str], dictionary: Mapping, folder: Path) -> dict[str, dict]:
    "Each system's facts, or the reason why it cannot run here; what it learnt is in a folder of its name."
    pairs = [(word, p) for word, listed in dictionary.items() if split_of(word) == "training" for p in listed]
    results = {}
    for name in names:
        system = SYSTEMS[name]
        print(f"preparing {name}", file=sys.stderr)
        (folder / name).mkdir()
        results[name] = {"title": system.title, "learnt": system.learnt}
        try:
            results[name] |= system.prepare(pairs, folder / name)
        except NotHere as reason:
            results[name]["not_run"] = str(reason)
    return results


def measure(results: dict[str, dict], dictionary: Mapping, words: Sequence[str], folder: Path) -> None:
    "Add error rates and timings to the systems that can run; in each round, all of them in turn."
    sample = random.Random(SEED).sample(words, min(ALONE, len(words)))
    said: dict[str, dict] = {}
    for turn in range(ROUNDS):
        for name in [name for name in results if "not_run" not in results[name]]:
            print(f"round {turn + 1} of {ROUNDS}: {name}", file=sys.stderr)
            worker = Worker(name, folder / name)
            worker.ask(sample[:10], alone=True)    # warm
            _, alone = worker.ask(sample, alone=True)
            predictions, bulk = worker.ask(words, alone=False)
            worker.close()
            if said.setdefault(name, predictions) != predictions:
                raise RuntimeError(f"{name} says other phonemes in round {turn + 1} than before; find out why")
            for what, value in zip(TIMINGS, (worker.started, alone, bulk)):
                results[name].setdefault(what, []).append(value)
    for name, predictions in said.items():
        print(f"scoring {name}", file=sys.stderr)
        for key, stress in (("without_stress", False), ("with_stress", True)):
            found = intervals(predictions, dictionary, stress, resamples=RESAMPLES, seed=SEED)
            results[name][key] = score(predictions, dictionary, stress) | found


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def table(results: Mapping) -> str:
    "The results as Markdown: error rates, then speed and size, then what was not run."
    systems = {name: one for name, one in results["systems"].items() if "not_run" not in one}

    def rate(one: Mapping, key: str, which: str) -> str:
        low, high = one[key][f"{which}_interval"]
        return f"{one[key][which]:.2%} ({low:.2%}–{high:.2%})".replace("%", "")

    def timed(one: Mapping, what: str, digits: str) -> list[str]:
        ours = systems.get("ours", {}).get(what)
        ratio = f"{median(a / b for a, b in zip(one[what], ours)):.3g}" if ours else "–"
        return [format(median(one[what]), digits), ratio]

    lines = [
        "# Peers of the pronunciation model", "",
        f"{results['words']:,} words of the part “{results['part']}”, nearest listed pronunciation. "
        "In brackets: bootstrap 95 % intervals over words.", "",
        row("system", "learnt from", "WER %", "PER %", "WER %, with stress", "PER %, with stress"),
        row("---", "---", *["---:"] * 4),
    ]    # fmt: skip
    for one in systems.values():
        rates = [rate(one, key, which) for key in ("without_stress", "with_stress") for which in ("wer", "per")]
        lines.append(row(one["title"], one["learnt"], *rates))
    lines += [
        "", f"Timed on: {results['machine']}. Median of {results['rounds']} rounds; “×” is the ratio to ours.", "",
        row("system", "words/s, one at a time", "×", "words/s in bulk", "×", "first word, s", "×", "model, kB",
            "training, s", "version"),
        row("---", *["---:"] * 8, "---"),
    ]    # fmt: skip
    for one in systems.values():
        trained = f"{one['training_seconds']:.0f}" if "training_seconds" in one else "–"
        times = [("alone_per_second", ",.0f"), ("bulk_per_second", ",.0f"), ("first_word_seconds", ".2f")]
        cells = [cell for what, digits in times for cell in timed(one, what, digits)]
        lines.append(row(one["title"], *cells, f"{one['bytes'] / 1000:,.1f}", trained, one["version"]))
    missing = [f"- {one['title']}: {one['not_run']}" for one in results["systems"].values() if "not_run" in one]
    return "\n".join([*lines, *(["", "Not run:", "", *missing] if missing else [])]) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="names with commas between; default: %(default)s")
    parser.add_argument("--part", default="test", choices=("test", "validation", "training"), help="default: test")
    parser.add_argument("--words", type=int, help="only the first so many words of the part, in dictionary order")
    parser.add_argument("--out", type=Path, help="folder for the results; default: this one for a whole run, else none")
    chosen = parser.parse_args()
    chosen.systems = chosen.systems.split(",")
    if unknown := [name for name in chosen.systems if name not in SYSTEMS]:
        parser.error(f"--systems has {unknown}; known are {', '.join(SYSTEMS)}")
    if chosen.words is not None and chosen.words < 1:
        parser.error(f"--words is {chosen.words}; it must be at least 1")
    if chosen.out and not chosen.out.is_dir():
        parser.error(f"--out is {chosen.out}, and there is no such folder; make it first")
    whole = chosen.words is None and chosen.part == "test" and set(chosen.systems) == set(SYSTEMS)
    chosen.out = chosen.out or (HERE if whole else None)
    return chosen


def main() -> None:
    chosen, dictionary = arguments(), read_cmudict()
    torch.set_num_threads(1)    # as the workers have it; machine() tells
    words = [word for word in dictionary if split_of(word) == chosen.part and word.isalpha()][: chosen.words]
    results = {
        "part": chosen.part, "words": len(words), "machine": machine(), "python": platform.python_version(),
        "numpy": np.__version__, "rounds": ROUNDS, "seed": SEED, "resamples": RESAMPLES, "alone": ALONE,
    }    # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        results["systems"] = prepared(chosen.systems, dictionary, Path(folder))
        measure(results["systems"], dictionary, words, Path(folder))
    if chosen.out:
        (chosen.out / "peers.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        results = json.loads((chosen.out / "peers.json").read_text())
        (chosen.out / "peers.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
