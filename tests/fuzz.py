"""Damaged inputs of each kind, by a seed: each works, or ends in one clear sentence, soon, and leaves nothing behind.

`make fuzz N=10000 SEED=1 KIND="onnx state"` tries so many, and prints how to try again what breaks this law.
The inputs are tried in workers, two at a time: one that hangs or dies is a fault like any other.
"""

import argparse
import collections
import json
import os
import queue
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from damage import STEERING, Fault, check_sentence, telling
from fuzz_kinds import KINDS, MEMORY, PLANTED, write_specimens

SECONDS, WORKERS = 20, 2    # that an input may take, and how many at a time
HERE = Path(__file__).resolve().parent


# The law, in a worker


def names(folder):
    return sorted(name for _, _, files in os.walk(folder) for name in files)


def break_law(kind: str, seed: int, number: int, home: Path, noise: Path) -> str | None:
    "How input `number` breaks the law, None where it does not; below 0 it is a specimen as it is."
    rng, (specimens, damage, use) = random.Random(f"{kind} {seed} {number}"), (KINDS | PLANTED)[kind]
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        folder = Path(place) / "in"
        shutil.copytree(home / (rng.choice(specimens) if number >= 0 else specimens[number]), folder)
        if number >= 0:
            damage(rng, folder)
        before, heard = collections.Counter(names(place)), noise.stat().st_size
        try:
            with telling():
                use(folder)
            for each in warned:
                check_sentence(str(each.message))
            if left := collections.Counter(names(place)) - before:
                raise Fault(f"it left {[*left]}")
            said = noise.read_bytes()[heard:].decode("utf-8", "surrogateescape").replace("\n", "")
            if found := STEERING.search(said):
                raise Fault(f"{found[0]!r} went to the terminal: {said[:300]!r}")
        except Fault as fault:
            return str(fault)
        except BaseException as error:
            *_, last = traceback.extract_tb(error.__traceback__)
            return f"{type(error).__name__}: {str(error)[:200]!r} in {Path(last.filename).name}:{last.lineno}"
        finally:
            os.chdir("/")
    return None


def work(home: str, kinds: list[str]) -> None:
    "Try inputs as they are asked for: a line for each, of JSON."
    torch.set_num_threads(1)
    noise = Path(tempfile.mkdtemp()) / "noise"
    told = os.fdopen(os.dup(1), "w")
    heard = os.open(noise, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(heard, stream)
    asked = os.fdopen(os.dup(0))
    whole = {(kind, -1 - i) for kind in kinds if kind in KINDS for i in range(len(KINDS[kind].specimens))}
    telling.nothing = True
    tried = [(kind, break_law(kind, 0, n, Path(home), noise)) for kind, n in sorted(whole)]
    telling.nothing = False
    broken = [f"{kind}, untouched: {why}" for kind, why in tried if why]
    have = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (have + MEMORY, have + MEMORY))
    print(json.dumps(broken), file=told, flush=True)
    for line in asked:
        kind, seed, number = json.loads(line)
        print(json.dumps(break_law(kind, seed, number, Path(home), noise)), file=told, flush=True)


# The inputs, from above


class Worker:
    "A process that tries inputs; a new one takes its place where it hangs or dies."

    def __init__(self, home: Path, kinds: Sequence[str]):
        self.asked, self.process = f"import fuzz; fuzz.work({str(home)!r}, {[*kinds]!r})", None

    def start(self) -> list[str]:
        path = os.pathsep.join([str(HERE), str(HERE.parent / "src")])
        environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command, pipe = [sys.executable, "-c", self.asked], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        return json.loads(self.process.stdout.readline())

    def ask(self, kind: str, seed: int, number: int, seconds: float) -> tuple[str | None, float]:
        "How this input breaks the law, and the seconds that it took."
        if self.process is None and (broken := self.start()):
            raise SystemExit("\n".join(broken))
        hung, start = threading.Event(), time.monotonic()
        timer = threading.Timer(seconds, lambda: (hung.set(), self.process.kill()))
        timer.start()
        print(json.dumps([kind, seed, number]), file=self.process.stdin, flush=True)
        answer, took = self.process.stdout.readline(), time.monotonic() - start
        timer.cancel()
        if answer:
            return json.loads(answer), took
        status = self.stop()
        return f"it took over {seconds} s" if hung.is_set() else f"the process ended with status {status}", took

    def stop(self) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.stdin.close()
        process.stdout.close()
        return process.wait()


def faults(kinds: Sequence[str], seed: int, numbers: Sequence[int], seconds: float = SECONDS) -> Iterator[tuple]:
    "(kind, number, how it breaks the law or None, seconds) of each of these inputs, as they are tried."
    jobs = iter([(kind, number) for number in numbers for kind in kinds])
    with tempfile.TemporaryDirectory() as home:
        write_specimens(Path(home), kinds)
        found, lock = queue.Queue(), threading.Lock()

        def labour():
            worker = Worker(Path(home), kinds)
            try:
                while True:
                    with lock:
                        job = next(jobs, None)
                    if job is None:
                        return
                    found.put((*job, *worker.ask(job[0], seed, job[1], seconds)))
            except BaseException as error:
                found.put(error)
            finally:
                worker.stop()
                found.put(None)

        for _ in range(WORKERS):
            threading.Thread(target=labour, daemon=True).start()
        ended = 0
        while ended < WORKERS:
            if isinstance(one := found.get(), BaseException):
                raise one
            ended += one is None
            if one is not None:
                yield one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1_000, help="inputs, all kinds together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="*", choices=[*KINDS, *PLANTED], help="all unless given")
    parser.add_argument("--number", type=int, help="this input alone")
    args = parser.parse_args()
    kinds = args.kinds or [*KINDS]
    numbers = range(-(-args.n // len(kinds))) if args.number is None else [args.number]
    tried, broken, longest = collections.Counter(), collections.Counter(), collections.Counter()
    for kind, number, why, seconds in faults(kinds, args.seed, numbers):
        tried[kind] += 1
        longest[kind] = max(longest[kind], seconds)
        if why is not None:
            broken[kind] += 1
            print(f"make fuzz KIND={kind} SEED={args.seed} NUMBER={number}    {why}", flush=True)
    for kind in kinds:
        print(f"{kind:<12} {tried[kind]:>6} inputs {broken[kind]:>5} faults, the longest {longest[kind]:.1f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
