"""A new chapter from the skeleton: `new_chapter.py 15_bug_museum "The bug museum"` writes its notebook.

The module is called as the file without its number. The skeleton is `chapter_skeleton.py`, and it runs as it stands.
"""

import argparse
import re
import sys
from pathlib import Path

import nbformat
from stamp import ROOT, repository, stamped
from tidy import tidied

SKELETON = Path(__file__).with_name("chapter_skeleton.py")


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


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("name", help="of the file, with its number, as in 15_bug_museum")
    options.add_argument("title", help="of the chapter, as in 'The bug museum'")
    args = options.parse_args()
    named = re.fullmatch(r"(?:\d\d|A\d+)_([a-z]\w*)", args.name)
    if not named:
        options.error(f"{args.name!r} is no chapter's name; give a number and a word, as in 15_bug_museum")
    path = ROOT / "notebooks" / f"{args.name}.ipynb"
    if path.exists() or (ROOT / "src" / "annotated_decoder" / f"{named[1]}.py").exists():
        options.error(f"{path.name} or its module is there already; give another name")
    skeleton = SKELETON.read_text(encoding="utf-8").replace("TITLE", args.title).replace("MODULE", named[1])
    notebook = nbformat.v4.new_notebook(cells=list(cells_of(skeleton)))
    text, _ = tidied(stamped(nbformat.writes(notebook), path.name, **repository()))
    path.write_text(text, encoding="utf-8")
    print(f"{path.relative_to(ROOT)} is written. Next: add it to _toc.yml, `make run`, and read CONTRIBUTING.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
