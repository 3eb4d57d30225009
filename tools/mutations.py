"""Show that the laws have teeth: break the package in one place at a time, and see the test meant for it fail.

`tests/mutations.toml` lists each law, the ways to break it, and for each way the test that must turn red.
`mutations.py` applies them to copies of the package, two at a time; it fails where one survives, or where a test
does not pass on the package as it is. `--table` then writes what it saw to `tests/README.md`.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "annotated_decoder"
LIST = ROOT / "tests" / "mutations.toml"
TABLE = ROOT / "tests" / "README.md"
INTRODUCTION = """# The tests

Each test states a law of the package, and asserts it: many with [Hypothesis](https://hypothesis.readthedocs.io) over
shapes, dtypes, norm orders and masks, a few examples each, always the same ones.
`HYPOTHESIS_PROFILE=many make unit` searches with many new ones.
Shapes in signatures are enforced here, by jaxtyping and beartype, and nowhere else.

## Any mutation at all

On 2026-11-23 all operators of cosmic-ray 8.7.0 were run over the twelve modules from `encoder_outputs` to `strategies`,
annotations left out, with at most two replacements of one binary operator or comparison: 936 mutants.
Each was run against its module's tests, those of bad input, and those of the modules that use it. 903 were killed.
The 33 others change nothing that the package can do:

- 28 write axis 1 for axis −1 of a tensor with two axes;
- 2 write `+` for `|` between booleans;
- `p >= 1` for `p == 1` in `top_p`, which refuses a p above 1;
- in `beam_search`, the last of a step's positions for the first, where there is one, and another slot for the first
  hypothesis, where the others are empty.

## Laws, and the mutations they kill

`make mutants` breaks the package in each of these ways, one at a time, and fails unless the test meant for it does.
`tools/mutations.py --table` writes this page, from `mutations.toml`, after a run in which every mutation was killed.

| law | mutation | in | killed by |
|---|---|---|---|
"""


def mutations():
    "Every listed mutation, with its law."
    laws = tomllib.loads(LIST.read_text(encoding="utf-8"))["law"]
    return [mutation | {"law": law["name"]} for law in laws for mutation in law["mutation"]]


def table() -> str:
    "The table of laws, mutations and tests, as Markdown."
    rows, last = [], None
    for m in mutations():
        file, test = m["killed_by"].split("::")
        law, last = ("" if m["law"] == last else m["law"]), m["law"]
        words = test.removeprefix("test_").replace("_", " ")
        rows.append(f"| {law} | {m['what']} | `{m['module']}` | `{file}`: {words} |")
    return INTRODUCTION + "\n".join(rows) + "\n"


def broken_copy(mutation, folder: Path) -> None:
    "The package in `folder`, with one replacement."
    shutil.copytree(PACKAGE, folder / "annotated_decoder", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "annotated_decoder" / f"{mutation['module'].replace('.', '/')}.py"
    text = path.read_text(encoding="utf-8")
    if (times := text.count(mutation["old"])) != 1:
        where = f"{mutation['old']!r} stands {times} times in {mutation['module']}, not once"
        raise SystemExit(f"{mutation['what']}: {where}; bring {LIST.name} up to date")
    path.write_text(text.replace(mutation["old"], mutation["new"]), encoding="utf-8")


def test(folder: Path, tests: list[str]) -> int:
    "pytest's exit status for these tests on the package in this folder; what it prints goes to a file beside it."
    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)    # for the processes that a test starts
    os.chdir(ROOT)
    # Loading nbval would take most of a run's time, and no test here is a notebook.
    plugins = [f"-pno:{name}" for name in ("cacheprovider", "nbval", "unraisableexception")]
    status = pytest.main(["-q", "-x", "--no-header", *plugins, *(f"tests/{test}" for test in tests)])
    found = sys.modules["annotated_decoder"].__file__
    return int(status) if Path(found).is_relative_to(folder) else 99


def outcomes(jobs):
    "Run each job in a fork of this process, two at a time; give its number and exit status as it ends."
    running, waiting = {}, list(enumerate(jobs))
    while waiting or running:
        while waiting and len(running) < 2:
            number, job = waiting.pop(0)
            if (pid := os.fork()) == 0:
                status = 98
                try:
                    status = test(*job)
                finally:
                    os._exit(status)
            running[pid] = number
        pid, status = os.wait()
        yield running.pop(pid), os.waitstatus_to_exitcode(status)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("modules", nargs="*", help="break these alone, as in trained.batches")
    options.add_argument("--table", action="store_true", help=f"write {TABLE.relative_to(ROOT)} when all are killed")
    options.add_argument("--check", action="store_true", help="only say whether that page is up to date")
    args = options.parse_args()
    if args.check:
        fresh = TABLE.exists() and TABLE.read_text(encoding="utf-8") == table()
        print("" if fresh else f"{TABLE.relative_to(ROOT)} is stale; run tools/mutations.py --table")
        return int(not fresh)

    os.environ |= {"HYPOTHESIS_PROFILE": "mutants", "OMP_NUM_THREADS": "1"}
    # What the tests need is loaded once; each run is a fork of this process, in which the package is not yet loaded.
    import beartype, hypothesis, jaxtyping, matplotlib.pyplot, safetensors.torch, torch  # noqa: E401, F401, I001
    import transformers.models.t5.modeling_t5  # noqa: F401

    gc.freeze()    # or each fork would copy all of it at its first collection of garbage
    listed = [mutation for mutation in mutations() if not args.modules or mutation["module"] in args.modules]
    if unknown := set(args.modules) - {mutation["module"] for mutation in listed}:
        options.error(f"no mutation of {', '.join(sorted(unknown))} is listed")
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        shutil.copytree(PACKAGE, whole / "annotated_decoder", ignore=shutil.ignore_patterns("__pycache__"))
        jobs = [(whole, sorted({m["killed_by"] for m in listed}))]
        for number, mutation in enumerate(listed):
            jobs.append((Path(scratch, str(number)), [mutation["killed_by"]]))
            broken_copy(mutation, jobs[-1][0])
        for number, status in outcomes(jobs):
            if number == 0:
                what, right = "the tests pass on the package as it is", status == pytest.ExitCode.OK
            else:
                what = f"{listed[number - 1]['law']}: {listed[number - 1]['what']}"
                right = status == pytest.ExitCode.TESTS_FAILED
            print(f"{'ok' if number == 0 else 'killed':8} {what}" if right else f"WRONG    {what}", flush=True)
            if not right:
                log = (jobs[number][0] / "log").read_text(encoding="utf-8")
                faults.append(f"WRONG    {what}\n  {', '.join(jobs[number][1])}: exit status {status}\n{log}")
    print(*faults, f"{len(jobs) - len(faults)} passed, {len(faults)} failed", sep="\n")    # last, where a log is cut
    if args.table and not faults and not args.modules:
        TABLE.write_text(table(), encoding="utf-8")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
