"""Training on one process and on several, in turns in this one script: target sounds a second of the shipped shape.

`python benchmarks/scaling.py` compares one process with two, with DDP and with FSDP, on the processor;
`--device cuda` gives each process a card, `--processes 1 2 4 8` compares more. With `--save` it writes `scaling.json`
into the package, where the chapter *More than one machine* draws it. On the processor each process has one thread,
and one process with as many threads as there are processes is the rival that a reader has already.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from annotated_decoder.encoder_outputs import END
from annotated_decoder.pronunciation.dictionary import read_cmudict, split_of
from annotated_decoder.pronunciation.recipe import RECIPE, machine, new_pronouncer
from annotated_decoder.scaling_out import shared, spread
from annotated_decoder.trained.meeting import processes
from annotated_decoder.training import Batch, Example, batches, optimizers_for, take_gradient

STORED = Path(__file__).parents[1] / "src" / "annotated_decoder" / "teaching" / "scaling.json"
WARM = 3    # steps before the clock starts


def work(device: str, how: str, steps: int, letters: int) -> None:
    "One process of a training; the first prints the rate."
    dictionary = {word: said for word, said in read_cmudict().items() if split_of(word) == "training"}
    trained = new_pronouncer(dictionary)
    sides = ((trained.source.encode(word), trained.target.encode(said[0])) for word, said in dictionary.items())
    examples = [Example([*source, END], target) for source, target in sides]
    order = batches(examples, letters, torch.Generator().manual_seed(1))
    with processes(device) as place:
        model, given = spread(trained.model.to(place), how, RECIPE.bfloat16), [next(order) for _ in range(WARM + steps)]
        optimizers = optimizers_for(model, RECIPE)
        for step, batch in enumerate(given):
            if step == WARM:
                dist.barrier()
                start = time.perf_counter()
            take_gradient(model, Batch(*(each.to(place) for each in batch)), RECIPE, step, shared())
            for each in optimizers:
                each.step()
        if device == "cuda":
            torch.cuda.synchronize()
        dist.barrier()
        sounds = sum(int(batch.target_mask.sum()) for batch in given[WARM:])
        if dist.get_rank() == 0:
            print(sounds / (time.perf_counter() - start))


def rate(asked: argparse.Namespace, world: int, how: str, threads: int) -> float:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", __file__]
    options = ["--device", asked.device, "--steps", str(asked.steps), "--letters", str(asked.letters), "--worker", how]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--letters", type=int, default=RECIPE.letters_per_batch, help="source symbols in a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked.device, asked.worker, asked.steps, asked.letters)
        return
    most = max(asked.processes)
    runs = {f"{how}, {world}": (world, how, 1) for how in ("ddp", "fsdp") for world in asked.processes}
    if asked.device == "cpu":
        runs[f"ddp, 1 with {most} threads"] = (1, "ddp", most)
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(asked.rounds):
        for name, (world, how, threads) in runs.items():
            rates[name].append(rate(asked, world, how, threads))
    base = rates[f"ddp, {min(asked.processes)}"]
    ratios = {name: statistics.median(a / b for a, b in zip(found, base)) for name, found in rates.items()}
    place = machine()
    if asked.device == "cuda":
        place = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    found = {"machine": place, "letters": asked.letters, "sounds a second": rates, "times the first": ratios}
    print(json.dumps(found, indent=1))
    if asked.save:
        STORED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
