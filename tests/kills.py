"""Kill processes at random moments, start them again, and see that nothing is lost and outputs are as without kills.

`python tests/kills.py --kind generation -n 60 --seed 1` kills so many, by SIGKILL, and prints what it saw.
The other kind is `training`.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
N_LINES, CHUNK_LINES, SLOWEST = 600, 16, 120    # seconds that a world may take


# A worker of generation: the shipped model's pronunciations, in small chunks


def pronounced(lines):
    from annotated_decoder.pronunciation.saying import say_words

    for word, found in say_words(line.strip() for line in lines):
        yield ("", found) if isinstance(found, ValueError) else (f"{word}\t{' '.join(found[0].symbols)}\n", None)


def answer(given: str, out: str) -> None:
    from annotated_decoder.trained.in_bulk import answer_in_bulk

    answer_in_bulk(given, pronounced, out, made_of={"answer": "pronounced"}, chunk_lines=CHUNK_LINES)


def start(given: Path, out: Path, rank: int, world: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "--worker", str(given), str(out)]
    return subprocess.Popen(command, env=os.environ | {"RANK": str(rank), "WORLD_SIZE": str(world)})


def write_lines(path: Path, chance: random.Random) -> None:
    "Words of letters drawn by chance; some are refused."
    letters = "abcdefghiklmnoprstuvwy"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(N_LINES)]
    path.write_text("".join(f"{word}{2 if chance.random() < 0.05 else ''}\n" for word in words))


# The supervisor


def run_world(given: Path, out: Path, kills: int, chance: random.Random) -> collections.Counter:
    "Start a world of a size drawn by chance, kill at most so many of its processes, and wait for the others."
    world = chance.randint(1, 3)
    workers = [start(given, out, rank, world) for rank in range(world)]
    seen, until = collections.Counter(starts=world), time.monotonic() + SLOWEST
    while any(worker.poll() is None for worker in workers):
        assert time.monotonic() < until, f"a world took more than {SLOWEST} seconds"
        time.sleep(chance.uniform(0, 0.6))
        victim = chance.choice(workers)
        if seen["kills"] < kills and victim.poll() is None:
            victim.kill()
            seen["kills"] += victim.wait() == -9
    ends = [worker.returncode for worker in workers]
    assert set(ends) <= {0, -9} and ends.count(-9) == seen["kills"], f"the world ended with {ends}"
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    "What is in a folder, but for the empty file of one who was killed while it tried whether it may write."
    found = {path.name: path.read_bytes() if path.is_file() else b"" for path in folder.iterdir()}
    return {name: data for name, data in found.items() if data or not name.endswith(".part") or ".chunks" in name}


def generation(kills: int, seed: int) -> dict[str, int]:
    "Kill workers of bulk generation, in as many rounds as it takes; what was seen."
    chance, seen = random.Random(seed), collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        given, plain = Path(place, "lines.txt"), Path(place, "plain", "out.txt")
        write_lines(given, chance)
        assert start(given, plain, 0, 1).wait() == 0
        expected = contents(plain.parent)
        assert set(expected) == {"out.txt", "out.txt.refused", "out.txt.made_of.json"}
        while seen["kills"] < kills:
            out = Path(place, f"round {seen['rounds']}", "out.txt")
            left, killed = min(chance.randint(1, 9), kills - seen["kills"]), -1
            while killed:                                           # until a world ends without a kill
                found = run_world(given, out, left, chance)
                killed, seen, left = found["kills"], seen + found, left - found["kills"]
            assert contents(out.parent) == expected, f"round {seen['rounds']} made {sorted(os.listdir(out.parent))}"
            seen["rounds"] += 1
    return dict(seen)


# Training, whose processes torchrun starts again


def train(place: Path, world: int, how: str) -> subprocess.Popen:
    engine = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}", "--max-restarts=99"]
    shape = "--d-model 16 --encoder-layers 1 --decoder-layers 1 --n-heads 2 --letters-per-batch 60 --epochs 12".split()
    files = ["--pairs", str(place / "pairs.tsv"), "--out", str(place / "model.safetensors"), "--every", "3"]
    command = [sys.executable, *engine, "-m", "annotated_decoder.scaling_out", "train", *files, *shape]
    sharded = ["--shard"] if how == "fsdp" else []
    quiet: dict = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return subprocess.Popen([*command, *sharded], **quiet)


def ranks_of(agent: subprocess.Popen) -> list[int]:
    "The processes that torchrun has started, by their numbers in the system."
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    return [int(number) for number in children.read_text().split()] if children.exists() else []


def trained(place: Path, world: int, how: str, kills: int, chance: random.Random) -> tuple[dict, int]:
    "What a training ends with, of whose processes at most so many are killed; and how many were."
    place.mkdir()
    letters, rows = "abcdefgh", random.Random(0)
    words = {"".join(rows.choices(letters, k=rows.randint(2, 6))) for _ in range(80)}
    (place / "pairs.tsv").write_text("".join(f"{word}\t{word[::-1].upper()}\n" for word in sorted(words)))
    agent, killed, until = train(place, world, how), 0, time.monotonic() + 4 * SLOWEST
    while agent.poll() is None:
        assert time.monotonic() < until, f"{place} took more than {4 * SLOWEST} seconds"
        time.sleep(chance.uniform(0.2, 8) if killed < kills else 0.5)
        if killed < kills and (ranks := ranks_of(agent)):
            os.kill(chance.choice(ranks), signal.SIGKILL)
            killed += 1
    assert agent.returncode == 0, f"{place} ended with {agent.returncode}"
    left = {path.name for path in place.iterdir()}
    assert left == {"pairs.tsv", "model.safetensors", "model.safetensors.png"}, left
    found = load_model(place / "model.safetensors")
    return found.model.state_dict() | {"notes": found.notes}, killed


def load_model(path: Path):
    from annotated_decoder.trained.model_file import TrainedModel

    return TrainedModel.load(path)


def training(kills: int, seed: int) -> dict[str, int]:
    "Kill processes of trainings with DDP and with FSDP, in as many rounds as it takes; what was seen."
    chance, seen, expected = random.Random(seed), collections.Counter(), {}
    with tempfile.TemporaryDirectory() as place:
        for kind in ((world, how) for world in (1, 2) for how in ("ddp", "fsdp")):
            expected[kind], _ = trained(Path(place, f"undisturbed {kind}"), *kind, 0, chance)
        while seen["kills"] < kills:
            kind, most = chance.choice([*expected]), min(chance.randint(1, 6), kills - seen["kills"])
            found, killed = trained(Path(place, f"round {seen['rounds']}"), *kind, most, chance)
            wrong = [name for name, value in expected[kind].items() if not same(value, found[name])]
            assert not wrong, f"round {seen['rounds']}, {kind}, after {killed} kills: {wrong[0]} is another"
            seen += collections.Counter(kills=killed, rounds=1)
    return dict(seen)


def same(one: object, other: object) -> bool:
    return one == other if isinstance(one, dict) else bool((one == other).all())    # bit by bit


KINDS = {"generation": generation, "training": training}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="generation")
    parser.add_argument("-n", type=int, default=60, help="how many are killed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--worker", nargs=2, metavar="FILE", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        answer(*asked.worker)
        return
    began = time.monotonic()
    seen = KINDS[asked.kind](asked.n, asked.seed)
    told = ", ".join(f"{n} {what}" for what, n in seen.items())
    print(f"{asked.kind}, seed {asked.seed}: {told}; nothing lost, in {time.monotonic() - began:.0f} seconds")


if __name__ == "__main__":
    main()
