"""The repository holds together: the package is what the notebooks export, and nothing is stale."""

import ast
import base64
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import asdict, fields
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from matplotlib.image import imsave

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "annotated_decoder"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(*command, cwd=ROOT):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def exported_module(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    names = [m[1] for c in cells if (m := re.match(r"#\| default_exp (\w+)", c.source))]
    return names[0] if names else None


MODULE_OF = {path: exported_module(path) for path in NOTEBOOKS}
NUMBERED = [m for path, m in MODULE_OF.items() if path.name[0].isdigit() and m]


def imported(text):
    "The package's modules that this code imports, in whatever form."
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = "annotated_decoder." * (node.level > 0) + (node.module or "")
            names |= {f"{start.rstrip('.')}.{alias.name}" for alias in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] if len(part) > 1 else "" for part in parts if part[0] == "annotated_decoder"}


def package_imports(module):
    return imported((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def test_the_package_is_what_the_notebooks_export(tmp_path):
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "src" / "annotated_decoder").mkdir(parents=True)
    shutil.copy(PACKAGE / "__init__.py", tmp_path / "src" / "annotated_decoder")
    run(Path(sys.executable).with_name("nbdev-export"), cwd=tmp_path)
    fresh = {p.name: p.read_text() for p in (tmp_path / "src" / "annotated_decoder").glob("*.py")}
    fresh.pop("_modidx.py", None)
    kept = {p.name: p.read_text() for p in PACKAGE.glob("*.py")}
    assert fresh.keys() == kept.keys()
    assert [name for name in fresh if fresh[name] != kept[name]] == []


@pytest.mark.parametrize("module", NUMBERED)
def test_numbered_modules_import_only_from_smaller_numbers(module):
    assert package_imports(module) <= set(NUMBERED[: NUMBERED.index(module)])


def test_a_numbered_import_upward_would_be_seen():
    assert "decoder" in package_imports("encoder")
    assert not package_imports("encoder") <= set(NUMBERED[: NUMBERED.index("decoder")])
    forms = ["from .cli import main", "from annotated_decoder.cli import main", "import annotated_decoder.cli as c"]
    forms += ["from . import cli", "from annotated_decoder import cli"]
    assert [imported(form) for form in forms] == [{"cli"}] * len(forms)
    assert imported("import annotated_decoder") == {""}    # all of it


def test_top_level_names_are_few_and_are_no_modules():
    import annotated_decoder

    names, modules = annotated_decoder.__all__, {p.stem for p in PACKAGE.glob("*.py")}
    assert len(names) <= 15
    assert not set(names) & modules
    assert all(hasattr(annotated_decoder, name) for name in names)


def test_modules_keep_to_their_size():
    lengths = {p.stem: len(p.read_text().splitlines()) for p in PACKAGE.glob("*.py")}
    most = {"cli": 280}    # several commands
    assert {name: n for name, n in lengths.items() if n > most.get(name, 250)} == {}


@pytest.mark.parametrize("tool", ["stamp", "tidy"])
def test_notebooks_are_stamped_and_tidy(tool):
    run(sys.executable, f"tools/{tool}.py", "--check", *(NOTEBOOKS if tool == "tidy" else []))


def test_a_wrong_stamp_is_seen(tmp_path):
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["repository"]["url"] += "-moved"
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    done = subprocess.run([sys.executable, "tools/stamp.py", "--check"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.count("disagrees") == len(NOTEBOOKS)


def test_a_notebook_not_run_from_the_top_is_seen(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    next(c for c in notebook.cells if c.cell_type == "code").execution_count = 99
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "tools/tidy.py", "--check", tmp_path / "x.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "count 99" in done.stdout


def test_solutions_are_folded_outside_the_book_too(tmp_path):
    cells = [c for p in NOTEBOOKS for c in nbformat.read(p, as_version=4).cells if c.id.startswith("solution-")]
    assert cells and all(c.metadata.cellView == "form" and c.metadata.jupyter.source_hidden for c in cells)
    notebook = nbformat.read(ROOT / "notebooks" / "03_cross_attention.ipynb", as_version=4)
    del next(c for c in notebook.cells if c.id.startswith("solution-")).metadata["cellView"]
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "tools/tidy.py", "--check", tmp_path / "x.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "is not tidy" in done.stdout


def test_a_notebook_whose_outputs_are_stale_is_seen(tmp_path):
    notebook = nbformat.read(NOTEBOOKS[1], as_version=4)
    cell = next(c for c in notebook.cells if c.cell_type == "code" and "print" in c.source)
    cell.source += "\n# a change that was not run"
    nbformat.write(notebook, tmp_path / "x.ipynb")
    command = [sys.executable, "tools/tidy.py", "--check", tmp_path / "x.ipynb"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "outputs are stale" in done.stdout


def test_a_picture_that_looks_as_before_keeps_its_bytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from run import keep_unchanged_pictures

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
    run(sys.executable, "tools/new_chapter.py", "15_bug_museum", "The bug museum", cwd=copied)
    run(sys.executable, "tools/run.py", "notebooks/15_bug_museum.ipynb", cwd=copied)
    run(sys.executable, "tools/tidy.py", "--check", "notebooks/15_bug_museum.ipynb", cwd=copied)
    notebook = nbformat.read(copied / "notebooks" / "15_bug_museum.ipynb", as_version=4)
    assert notebook.cells[0].source.startswith("# The bug museum")
    assert re.search(r"^\*Runs in under \d+ seconds on two cores", notebook.cells[0].source, re.M)
    assert "bug_museum" == exported_module(copied / "notebooks" / "15_bug_museum.ipynb")
    assert any(c.cell_type == "code" and c.outputs and "True" in c.outputs[0].get("text", "") for c in notebook.cells)


@pytest.mark.parametrize("name", ["museum", "15_Museum", "15_attention"])
def test_a_chapter_that_cannot_be_is_refused(copied, name):
    command = [sys.executable, "tools/new_chapter.py", name, "Attention again"]
    done = subprocess.run(command, cwd=copied, capture_output=True, text=True)
    assert done.returncode == 2 and name in done.stderr and list((copied / "notebooks").iterdir()) == []


def test_a_run_time_is_the_next_round_one_and_stays_where_noise_moves_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from run import run_time

    expected = {3: "10 seconds", 11: "20 seconds", 41: "a minute", 61: "two minutes", 301: "6 minutes"}
    assert {seconds: run_time(seconds) for seconds in expected} == expected
    assert run_time(11, "40 seconds") == "40 seconds" and run_time(39, "40 seconds") == "40 seconds"
    assert run_time(9, "40 seconds") == "10 seconds" and run_time(41, "40 seconds") == "a minute"


def test_the_page_of_laws_is_up_to_date():
    run(sys.executable, "tools/mutate.py", "--check")


def test_the_first_trial_is_the_recipe_but_for_its_epochs_and_the_others_change_what_they_name(monkeypatch):
    from annotated_decoder.decoder import StackConfig
    from annotated_decoder.pronunciation.model import RECIPE, new_pronouncer
    from annotated_decoder.training import TrainingConfig

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from ablation import trials

    listed = trials()
    first, ours = next(iter(listed.values())), new_pronouncer({"a": [("AH0",)]}).model
    known = {field.name for field in fields(TrainingConfig)}
    assert {**asdict(RECIPE), "epochs": first["epochs"]} == {name: first[name] for name in known}
    shape = {name: value for name, value in first.items() if name not in known}
    for side, stack in (("encoder", ours.encoder), ("decoder", ours.decoder)):
        assert shape.pop(f"{side}_layers") == stack.config.n_layers
        assert {name: getattr(stack.config, name) for name in ("d_model", "d_ff", "n_heads", "dropout")} == {
            name: first[name] for name in ("d_model", "d_ff", "n_heads", "dropout")
        }
    possible = known | {field.name for field in fields(StackConfig)} | {"encoder_layers", "decoder_layers"}
    assert all(settings.keys() <= possible for settings in listed.values())
    assert [name for name, settings in listed.items() if settings == first] == ["first"]
    assert len(listed) <= 13    # a dozen, and a second seed


def test_no_text_holds_the_marks_of_a_merge():
    texts = [p for folder in ("book", "notebooks", "tests", "tools", "benchmarks") for p in (ROOT / folder).rglob("*")]
    texts = [p for p in [*texts, *ROOT.glob("*.*")] if p.suffix in (".md", ".py", ".ipynb", ".toml", ".yml", ".bib")]
    assert len(texts) > 80
    assert [p.name for p in texts if re.search("^(<{7} |>{7} )", p.read_text(encoding="utf-8"), re.M)] == []


def test_one_version_everywhere():
    from annotated_decoder import __version__

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == __version__


def test_the_repository_address_is_the_same_everywhere():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    for name in ("README.md", "pyproject.toml", "CITATION.cff"):
        found = set(re.findall(r"https://github\.com/[\w-]+/[\w-]+", (ROOT / name).read_text()))
        assert found == {url}, name


def test_every_claim_has_its_heading_and_its_cell():
    page = (ROOT / "book" / "claims.md").read_text()
    linked = re.findall(r"\[(N\d+)\]\(\.\./(notebooks/\w+\.ipynb)#claim-n(\d+)\)", page)
    assert [f"N{i}" for i in range(1, 17)] == [name for name, _, _ in linked]
    for name, notebook, number in linked:
        cells = nbformat.read(ROOT / notebook, as_version=4).cells
        assert name == f"N{number}"
        assert any(re.search(f"^#+ Claim {name}$", c.source, re.M) for c in cells), f"{notebook}: no heading {name}"
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
        size = archive.getinfo("annotated_decoder/pronouncer.safetensors").file_size
    modules = {f"annotated_decoder/{p.name}" for p in PACKAGE.glob("*.py")}
    others = {"annotated_decoder/py.typed", "annotated_decoder/pronouncer.safetensors", "annotated_decoder_command.py"}
    assert files == modules | others
    assert notices == {"LICENSE", "LICENSE-CMUDICT"}
    assert size <= 8_000_000


def test_the_source_archive_holds_all_that_its_own_tests_need(archives):
    with tarfile.open(archives[0]) as archive:
        files = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    tracked = set(run("git", "ls-files").split()) if (ROOT / ".git").exists() else set()
    unneeded = (".ci/", ".github/", ".gitignore", ".gitattributes", "MANIFEST.in")
    assert {n for n in tracked - files if not n.startswith(unneeded)} == set()
    assert [n for n in files if n.startswith(("_build/", ".venv/", "dist/")) or n.endswith(".pyc")] == []


def test_no_pronunciation_of_a_test_word_is_in_the_package():
    from annotated_decoder.pronunciation.dictionary import read_cmudict, split_of

    package = b"\n".join(p.read_bytes() for p in sorted(PACKAGE.rglob("*")) if p.is_file() and p.suffix != ".pyc")
    text = set(re.findall(r"[A-Z]{1,2}[012]?(?:[ ,'\"]+[A-Z]{1,2}[012]?){3,}", package.decode("latin-1")))
    runs = {" ".join(re.findall(r"[A-Z]{1,2}[012]?", t)) for t in text}
    words = {w: ps for w, ps in read_cmudict().items() if split_of(w) == "test"}
    assert [w for w, ps in words.items() for p in ps if len(p) > 3 and any(" ".join(p) in r for r in runs)] == []
