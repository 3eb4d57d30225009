"""Run notebooks from the top and store their outputs: `run.py NOTEBOOK…`; with `--stale` only those that need it.

Each stored notebook says by its fingerprint what it was run on: its code cells, the package and the weights; and under
its title how long that took, measured here.
A picture that looks as before keeps its old bytes, so that a diff shows what changed.
"""

import argparse
import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
from matplotlib.image import imread
from nbclient import NotebookClient
from stamp import repository, stamped
from tidy import fingerprint, tidied
from tqdm import tqdm

TIMES = {10: "10 seconds", 20: "20 seconds", 40: "40 seconds", 60: "a minute", 120: "two minutes", 300: "five minutes"}


def run_time(seconds: float, stored: str | None = None) -> str:
    "The next round time above; the stored one stays where it is not far off, since machines are noisy."
    enough = {name: most for most, name in TIMES.items()}
    if stored in enough and enough[stored] / 4 < seconds <= enough[stored]:
        return stored
    return next((name for most, name in TIMES.items() if seconds <= most), f"{-(-seconds // 60):.0f} minutes")


def looks_the_same(old: str, new: str) -> bool:
    "Whether two PNGs, in base64, show the same picture: no channel of any pixel differs by more than 3 %."
    a, b = (imread(io.BytesIO(base64.b64decode(png))) for png in (old, new))
    return a.shape == b.shape and float(np.abs(a - b).max()) <= 0.03


def keep_unchanged_pictures(before, after) -> None:
    "Put the old bytes back wherever a cell's new picture looks like its old one."
    stored = {cell.id: cell.outputs for cell in before.cells if cell.cell_type == "code"}
    for cell in (cell for cell in after.cells if cell.cell_type == "code"):
        for old, new in zip(stored[cell.id], cell.outputs):
            a, b = old.get("data", {}).get("image/png"), new.get("data", {}).get("image/png")
            if a and b and looks_the_same(a, b):
                new.data["image/png"] = a


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--stale", action="store_true", help="leave out what was run on these cells, code and weights")
    options.add_argument("notebooks", nargs="+", type=Path)
    args = options.parse_args()
    # One thread, so that a sum is added up in the same order on every machine.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    failed = False
    for path in (bar := tqdm(args.notebooks)):
        bar.set_description(path.stem)
        before = nbformat.read(path, as_version=4)
        if args.stale and before.metadata.get("fingerprint") == fingerprint(before):
            continue
        after = nbformat.read(path, as_version=4)
        start = time.perf_counter()
        NotebookClient(after, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
        after.metadata["run_time"] = run_time(time.perf_counter() - start, before.metadata.get("run_time"))
        keep_unchanged_pictures(before, after)
        after.metadata["fingerprint"] = fingerprint(after)
        text, problems = tidied(stamped(nbformat.writes(after) + "\n", path.name, **repository()))
        path.write_text(text, encoding="utf-8")
        for problem in problems:
            failed = True
            bar.write(f"{path}: {problem}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
