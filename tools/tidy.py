"""Keep notebooks small in a diff and honest: `tidy.py NOTEBOOK…` rewrites, `tidy.py --check NOTEBOOK…` only reports.

Kept are sources, outputs, cell ids, tags, MyST metadata, execution counts, and the run's fingerprint and rounded time;
other timings and editor state go. The solution of an exercise is folded, in Colab and in JupyterLab too.
Reported are notebooks that were not run from top to bottom, or were run on other cells, another package or other
weights than those of today; cells that ended in an error, pictures without alternative text and the reverse, cells
that are too long, and notebooks over 1.5 MB.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import nbformat

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "annotated_decoder"
KEPT = {"tags", "mystnb"}
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}    # how Colab and JupyterLab fold a cell's code
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MOST_LINES, MOST_LINES_EXPORTED, MOST_BYTES = 25, 72, 1_500_000    # a class is exported whole


def fingerprint(notebook) -> str:
    "A hash of all that a notebook's outputs come from: its code cells and their tags, the package and the weights."
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(repr((cell.id, cell.source, sorted(cell.metadata.get("tags", [])))).encode())
    for path in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*.safetensors")]):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def pictures(cell) -> bool:
    return any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))


def problems(notebook):
    "What is wrong with a notebook, one sentence each."
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if notebook.metadata.get("fingerprint") != fingerprint(notebook):
        yield "its outputs are stale: they come from other cells, another package or other weights; make run"
    for expected, cell in enumerate(code, 1):
        if not cell.source.strip():
            yield f"cell {cell.id} is empty; delete it"
        if cell.execution_count != expected:
            yield f"cell {cell.id} has count {cell.execution_count}, not {expected}; run all cells from the top"
        if "raises-exception" not in cell.metadata.get("tags", []):
            if any(output.output_type == "error" for output in cell.outputs):
                yield f"cell {cell.id} ended in an error"
        if pictures(cell) and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt"):
            yield f"cell {cell.id} draws a picture without alternative text; set mystnb.image.alt in its metadata"
        if not pictures(cell) and cell.metadata.get("mystnb", {}).get("image", {}).get("alt"):
            yield f"cell {cell.id} describes a picture, but its output has none"
        most = MOST_LINES_EXPORTED if cell.source.startswith("#| export") else MOST_LINES
        if len(cell.source.splitlines()) > most:
            yield f"cell {cell.id} has over {most} lines; split it"


def merged(outputs):
    "The outputs with neighbouring pieces of one stream joined: where a stream is cut is chance."
    joined = []
    for output in outputs:
        before = joined[-1] if joined else None
        if before and output.output_type == before.output_type == "stream" and output.name == before.name:
            before.text += output.text
        else:
            joined.append(output)
    return joined


def tidied(text: str) -> tuple[str, list[str]]:
    "The notebook's text in its one form, and its problems."
    notebook = nbformat.reads(text, as_version=4)
    kept = {k: v for k, v in notebook.metadata.items() if k in ("fingerprint", "run_time")}
    notebook.metadata = nbformat.from_dict(METADATA | kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        folded = FOLDED if cell.id.startswith("solution-") else {}
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT} | folded)
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
    nbformat.validate(notebook)
    written = nbformat.writes(notebook) + "\n"
    found = list(problems(notebook))
    if len(written.encode()) > MOST_BYTES:
        found.append(f"{len(written.encode()):,} bytes are more than {MOST_BYTES:,}; draw smaller pictures")
    return written, found


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="change nothing; fail where something is not tidy")
    options.add_argument("notebooks", nargs="+", type=Path)
    args = options.parse_args()
    bad = False
    for path in args.notebooks:
        text = path.read_text(encoding="utf-8")
        written, found = tidied(text)
        if written != text:
            if args.check:
                found.append("is not tidy; run tools/tidy.py on it")
            else:
                path.write_text(written, encoding="utf-8")
        for problem in found:
            bad = True
            print(f"{path}: {problem}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
