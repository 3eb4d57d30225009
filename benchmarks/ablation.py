"""Short trainings that differ in one thing each, three seeds of each: what every idea buys.

    python benchmarks/ablation.py             # what has no result yet, two at a time; it may be stopped and goes on
    python benchmarks/ablation.py NAME …      # these trials, all seeds, anew

Where all have their results, the smallest is run once more, and its loss compared with the band of the stored ones.
Results stand in ablation.json of the package's room `teaching`, which the chapter *What each idea buys* draws, and as a
table in ablation.md. Scores are those of the validation words; test words are never looked at.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TRIALS, TABLE = HERE / "trials.toml", HERE / "ablation.md"
RESULTS = HERE.parent / "src" / "annotated_decoder" / "teaching" / "ablation.json"
SEEDS, SMALLEST = (1, 2, 3), "in small"
OWN = {"encoder_layers", "decoder_layers", "tied", "positions", "every", "warm_up", "decodings"}    # this script's


def trials() -> dict[str, dict[str, Any]]:
    "Each trial's settings: those that all share, and its own."
    listed = tomllib.loads(TRIALS.read_text(encoding="utf-8"))
    return {name: listed["all"] | own for name, own in listed["trial"].items()}


def model_of(settings: Mapping[str, Any], n_letters: int, n_sounds: int):
    "An untrained model of this shape."
    import torch

    from annotated_decoder.attention import MultiHeadAttention
    from annotated_decoder.embedding import sinusoids
    from annotated_decoder.generation import EncoderDecoder
    from annotated_decoder.pretrained.parts import BareEmbedding, build_decoder, build_encoder, split_shape
    from annotated_decoder.projection import Projection

    class Rotary(MultiHeadAttention):
        "Queries and keys turned by their positions, from 0: for decoding without a cache."

        def turn(self, x):
            hands = sinusoids(*x.shape[-2:]).to(x)
            sin, cos, a, b = hands[:, ::2], hands[:, 1::2], x[..., ::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

        def queries(self, x):
            return self.turn(super().queries(x))

        def keys_values(self, source):
            k, v = super().keys_values(source)
            return self.turn(k), v

    shape = {key: value for key, value in settings.items() if key not in OWN} | {"max_len": 48}
    positions = settings.get("positions", "sinusoidal")
    bare = positions in ("none", "rotary")
    shape["positions"] = "sinusoidal" if bare else positions
    sides = []
    for build, size, side in ((build_encoder, n_letters, "encoder"), (build_decoder, n_sounds, "decoder")):
        config, parts = split_shape(shape | {"vocab_size": size, "n_layers": settings[f"{side}_layers"]})
        stack = build(config, parts)
        if bare:
            stack.embedding = BareEmbedding(size, config.d_model, 48, config.dropout, parts.embedding_scale)
        for layer in stack.layers if positions == "rotary" else ():
            layer.self_attn = Rotary(config.d_model, config.n_heads)
        sides.append(stack)
    table = sides[1].embedding.tokens.weight if settings.get("tied", True) else None
    return EncoderDecoder(*sides, Projection(config.d_model, n_sounds, table))


def run(settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    "One training and its scores, in this process, on one thread."
    import copy

    import torch

    from annotated_decoder.encoder_outputs import Vocabulary, pad
    from annotated_decoder.generation import generate
    from annotated_decoder.pronunciation.dictionary import read_cmudict, score, split_of
    from annotated_decoder.softmax import cross_entropy
    from annotated_decoder.strategies import beam_search
    from annotated_decoder.trained.model_file import TrainedModel
    from annotated_decoder.training import TrainingConfig, batches, epoch_batches, optimizers_for, take_gradient

    torch.set_num_threads(1)
    dictionary = {w: said for w, said in read_cmudict().items() if w.isalpha()}
    known = {field.name for field in fields(TrainingConfig)}
    config = TrainingConfig(**{key: value for key, value in settings.items() if key in known} | {"seed": seed})
    source = Vocabulary.of({letter for word in dictionary for letter in word})
    target = Vocabulary.of({p for listed in dictionary.values() for said in listed for p in said})
    torch.manual_seed(seed)
    shape = {key: value for key, value in settings.items() if key not in known}
    model = model_of(shape, len(source), len(target))
    trained = TrainedModel(model, source, target, {})
    parts = {part: [w for w in dictionary if split_of(w) == part] for part in ("training", "validation")}
    learned = parts["training"][:: settings["every"]]
    examples = [trained.example(word, said) for word in learned for said in dictionary[word]]
    steps = config.epochs * len(list(epoch_batches(examples, config, 0)))
    mean, counted = copy.deepcopy(model), 0

    optimizers, losses = optimizers_for(model, config), []
    schedules = [    # as the package's own, but for the share of the steps in which the rate rises
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.peak_lr, total_steps=steps, pct_start=settings["warm_up"] and settings["warm_up"] + 1e-9,
            cycle_momentum=isinstance(optimizer, torch.optim.AdamW),
        )
        for optimizer in optimizers
    ]    # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in (batch for epoch in range(config.epochs) for batch in epoch_batches(examples, config, epoch)):
        losses.append(take_gradient(model, batch, config, len(losses)))
        for each in (*optimizers, *schedules):
            each.step()
        if len(losses) > 0.9 * steps:    # of the last tenth, the mean of the weights
            counted += 1
            with torch.no_grad():
                for kept, now in zip(mean.parameters(), model.parameters(), strict=True):
                    kept += (now - kept) / counted
    model.eval()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu

    def said(model, words, write):
        "Words and what the model says of them, in batches of like lengths."
        words, found = sorted(words, key=len), {}
        for some in (words[i : i + 200] for i in range(0, len(words), 200)):
            letters, mask = pad([trained.example(word).source for word in some])
            found |= zip(some, map(target.decode, write(model, letters, mask)), strict=True)
        return found

    def greedily(model, letters, mask):
        return generate(model, letters, mask, max_steps=30).tolist()

    def by_beam(model, letters, mask):
        return [list(row[0].tokens) for row in beam_search(model, letters, mask, width=4, max_steps=30)]

    def rates(model, write=greedily):
        found = said(model, parts["validation"], write)
        return {"plain": score(found, dictionary), "stressed": score(found, dictionary, stress=True)}

    unseen = [trained.example(word, dictionary[word][0]) for word in parts["validation"]]
    total = positions = 0.0
    with torch.no_grad():
        for batch in batches(unseen, 2_000, torch.Generator().manual_seed(0)):
            real = batch.target_mask.sum().item()
            logits = model(batch.source, batch.inputs, batch.source_mask)
            total += cross_entropy(logits, batch.targets, batch.target_mask).item() * real
            positions += real
    found = {
        "words": len(learned), "parameters": sum(p.numel() for p in model.parameters()), "steps": steps,
        "minutes": wall / 60, "cpu_minutes": cpu / 60, "training_loss": statistics.mean(losses[-50:]),
        "loss": total / positions, **rates(model),
    }    # fmt: skip
    if settings.get("decodings"):
        found |= {"beam": rates(model, by_beam), "averaged": rates(mean.eval())}
    return found


def waiting(results: Mapping[str, Any], listed: Mapping[str, Any], anew: list[str]) -> Iterator[tuple[str, int]]:
    "Trials and seeds that have no result under these settings; the first seed of all comes first."
    for seed, name in product(SEEDS, listed):
        kept = results.get(name, {})
        if name in anew or kept.get("settings") != listed[name] or str(seed) not in kept["seeds"]:
            yield name, seed


def band(result: Mapping[str, Any]) -> tuple[float, float]:
    "Where the loss of another run may lie: between those of the seeds, or as far beside them as they lie apart."
    losses = [seed["loss"] for seed in result["seeds"].values()]
    apart = max(losses) - min(losses)
    return min(losses) - apart, max(losses) + apart


def spread(values: list[float], digits: int) -> str:
    "The mean, and from where to where."
    mean, low, high = statistics.mean(values), min(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(results: Mapping[str, dict[str, Any]]) -> str:
    "The results as Markdown: means over the seeds, and the least and the largest."
    first = next(iter(trials().values()))
    lines = [
        "# What each idea buys", "",
        f"Trainings of {first['epochs']} epochs on one word in {first['every']} of the training part, one thread each,",
        "scored on the validation words: the mean over the seeds and, in brackets, the least and the largest.", "",
        "| trial | changed | parameters | processor minutes | loss | WER % | WER %, with stress | PER % |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]    # fmt: skip
    for name, one in results.items():
        changed = [f"{key} {value}" for key, value in one["settings"].items() if first.get(key) != value]
        seeds = [*one["seeds"].values()]
        percent = [[100 * each[kind][rate] for each in seeds]
                   for kind, rate in (("plain", "wer"), ("stressed", "wer"), ("plain", "per"))]    # fmt: skip
        lines.append(
            f"| {name} | {', '.join(changed)} | {seeds[0]['parameters']:,} "
            f"| {statistics.mean(each['cpu_minutes'] for each in seeds):.1f} "
            f"| {spread([each['loss'] for each in seeds], 3)} | {' | '.join(spread(each, 1) for each in percent)} |"
        )
    return "\n".join(lines) + "\n"


def keep(stored: dict[str, Any], listed: Mapping[str, Any]) -> None:
    "Write all results, in the order of the trials."
    stored["trials"] = {name: stored["trials"][name] for name in listed if name in stored["trials"]}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(table(stored["trials"]), encoding="utf-8")


def work_off(todo: list[tuple[str, int]], running: dict, stored: dict[str, Any], listed: Mapping[str, Any]) -> None:
    "Run what waits, two at a time; keep each result as it comes."
    while todo or running:
        while todo and len(running) < 2:
            name, seed = todo.pop(0)
            command = [sys.executable, __file__, "--alone", str(seed), name]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            running[name, seed] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        time.sleep(1)
        for name, seed in [key for key, process in running.items() if process.poll() is not None]:
            said = running.pop((name, seed)).communicate()[0]
            if not said:
                print(f"{name}, seed {seed}, failed; its message stands above", file=sys.stderr)
                continue
            kept = stored["trials"].get(name, {})
            if kept.get("settings") != listed[name]:
                kept = stored["trials"][name] = {"settings": listed[name], "seeds": {}}
            kept["seeds"] |= {str(seed): json.loads(said)}
            keep(stored, listed)
            found = kept["seeds"][str(seed)]
            print(f"{name}, seed {seed}: WER {100 * found['plain']['wer']:.1f} %, loss {found['loss']:.3f}, "
                  f"{found['cpu_minutes']:.1f} processor minutes, {len(todo)} to go", flush=True)    # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--alone", type=int, metavar="SEED", help="run one trial in this process and print its result")
    args = options.parse_args()
    listed = trials()
    if unknown := [name for name in args.names if name not in listed]:
        options.error(f"{unknown} are not in {TRIALS.name}; it has {', '.join(listed)}")
    if args.alone:
        print(json.dumps(run(listed[args.names[0]], args.alone)))
        return
    from annotated_decoder.pronunciation.recipe import machine

    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"trials": {}}
    todo = [*waiting(stored["trials"], listed, args.names)]
    if not todo:
        low, high = band(stored["trials"][SMALLEST])
        loss = run(listed[SMALLEST], SEEDS[0])["loss"]
        print(f"{SMALLEST}, seed {SEEDS[0]}, once more: loss {loss:.3f}; the stored band is {low:.3f} to {high:.3f}")
        sys.exit(not low <= loss <= high)
    stored |= {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
    running: dict[tuple[str, int], subprocess.Popen] = {}
    try:
        work_off(todo, running, stored, listed)
    finally:
        for process in running.values():
            process.terminate()


if __name__ == "__main__":
    main()
