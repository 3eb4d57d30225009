"""Short trainings that differ in one thing each: what every idea buys, in error rates on the validation words.

    python benchmarks/ablation.py             # all trials of trials.toml that have no result yet, two at a time
    python benchmarks/ablation.py NAME …      # these

Results stand in ablation.json, and as a table in ablation.md. Test words are never looked at.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
from dataclasses import fields
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRIALS, RESULTS, TABLE = HERE / "trials.toml", HERE / "ablation.json", HERE / "ablation.md"


def trials() -> dict[str, dict]:
    "Each trial's settings: those that all share, and its own."
    listed = tomllib.loads(TRIALS.read_text(encoding="utf-8"))
    return {name: listed["all"] | own for name, own in listed["trial"].items()}


def run(name: str, settings: dict) -> dict:
    "One training and its scores, in this process, on one thread."
    import torch

    from annotated_decoder.encoder_outputs import Vocabulary
    from annotated_decoder.generation import EncoderDecoder
    from annotated_decoder.pretrained.parts import build_decoder, build_encoder, split_shape
    from annotated_decoder.projection import Projection
    from annotated_decoder.pronunciation.dictionary import read_cmudict, score, split_of
    from annotated_decoder.pronunciation.recipe import machine
    from annotated_decoder.softmax import cross_entropy
    from annotated_decoder.trained.model_file import TrainedModel
    from annotated_decoder.training import TrainingConfig, batches, train

    torch.set_num_threads(1)
    dictionary = read_cmudict()
    known = {field.name for field in fields(TrainingConfig)}
    config = TrainingConfig(**{key: value for key, value in settings.items() if key in known})
    shape = {key: value for key, value in settings.items() if key not in known}
    layers = {side: shape.pop(f"{side}_layers") for side in ("encoder", "decoder")}
    source = Vocabulary.of({letter for word in dictionary for letter in word})
    target = Vocabulary.of({p for listed in dictionary.values() for said in listed for p in said})
    torch.manual_seed(config.seed)
    shape |= {"max_len": 48}
    encoder = build_encoder(*split_shape(shape | {"vocab_size": len(source), "n_layers": layers["encoder"]}))
    decoder = build_decoder(*split_shape(shape | {"vocab_size": len(target), "n_layers": layers["decoder"]}))
    head = Projection(decoder.config.d_model, len(target), decoder.embedding.tokens.weight)
    model = EncoderDecoder(encoder, decoder, head)
    trained = TrainedModel(model, source, target, {})
    parts = {part: [w for w in dictionary if split_of(w) == part] for part in ("training", "validation")}
    examples = [trained.example(word, said) for word in parts["training"] for said in dictionary[word]]
    wall, cpu = time.perf_counter(), time.process_time()
    losses = train(model, examples, config, progress=False)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    found = trained.transcribe(parts["validation"])
    unseen = [trained.example(word, dictionary[word][0]) for word in parts["validation"]]
    total = positions = 0.0
    with torch.no_grad():
        for batch in batches(unseen, 2_000, torch.Generator().manual_seed(0)):
            real = batch.target_mask.sum().item()
            logits = model(batch.source, batch.inputs, batch.source_mask)
            total += cross_entropy(logits, batch.targets, batch.target_mask).item() * real
            positions += real
    return {
        "settings": settings, "machine": machine(), "parameters": sum(p.numel() for p in model.parameters()),
        "steps": len(losses), "minutes": wall / 60, "cpu_minutes": cpu / 60, "loss": total / positions,
        "without_stress": score(found, dictionary), "with_stress": score(found, dictionary, stress=True),
    }    # fmt: skip


def table(results: dict[str, dict]) -> str:
    "The results as Markdown; each trial by what it changes of the first."
    first = next(iter(trials().values()))
    lines = [
        "# What each idea buys", "",
        f"Trainings of {first['epochs']} epoch(s), one thread each, scored on the validation words. The second row",
        "differs from the first by its seed alone: less than that is chance.", "",
        "| trial | changed | parameters | processor minutes | loss | WER % | PER % | WER %, with stress |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]    # fmt: skip
    for name, one in results.items():
        changed = [f"{key} {value}" for key, value in one["settings"].items() if first.get(key) != value]
        plain, stress = one["without_stress"], one["with_stress"]
        lines.append(
            f"| {name} | {', '.join(changed)} | {one['parameters']:,} | {one['cpu_minutes']:.1f} | {one['loss']:.3f} "
            f"| {100 * plain['wer']:.1f} | {100 * plain['per']:.2f} | {100 * stress['wer']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    options.add_argument("names", nargs="*", metavar="NAME")
    options.add_argument("--alone", action="store_true", help="run one trial in this process and print its result")
    args = options.parse_args()
    listed = trials()
    if unknown := [name for name in args.names if name not in listed]:
        options.error(f"{unknown} are not in {TRIALS.name}; it has {', '.join(listed)}")
    if args.alone:
        print(json.dumps(run(args.names[0], listed[args.names[0]])))
        return
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    waiting = args.names or [name for name in listed if results.get(name, {}).get("settings") != listed[name]]
    running: dict[str, subprocess.Popen] = {}
    try:
        work_off(waiting, running, results, listed)
    finally:
        for process in running.values():
            process.terminate()


def work_off(waiting: list[str], running: dict, results: dict, listed: dict) -> None:
    "Run what waits, two at a time; keep each result as it comes."
    while waiting or running:
        while waiting and len(running) < 2:
            name = waiting.pop(0)
            command = [sys.executable, __file__, "--alone", name]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            running[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        time.sleep(1)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            said = running.pop(name).communicate()[0]
            if not said:
                print(f"{name} failed; its message stands above", file=sys.stderr)
                continue
            results[name] = json.loads(said)
            results = {each: results[each] for each in listed if each in results}
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            TABLE.write_text(table(results), encoding="utf-8")
            print(table(results).splitlines()[list(results).index(name) + 7], flush=True)


if __name__ == "__main__":
    main()
