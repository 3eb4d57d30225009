"""Every exercise with a checker: its stub fails, its solution folds out below it, and passes."""

import ast
import contextlib
import io
from pathlib import Path

import nbformat
import pytest
import torch

from annotated_decoder.check import laws as checking

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def reports_of(source, names):
    "Run a cell; give the reports that its checks made, and what it printed."
    made, report_of, printed = [], checking.Report, io.StringIO()

    def recorded(*args):
        made.append(report_of(*args))
        return made[-1]

    checking.Report = recorded
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "<cell>", "exec"), names)
    finally:
        checking.Report = report_of
    return made, printed.getvalue()


def last_statement(source):
    return ast.unparse(ast.parse(source).body[-1])


def problems(notebook):
    "What is wrong with a notebook's exercises, one sentence each."
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    exercises = {c.id.removeprefix("exercise-"): (i, c) for i, c in enumerate(cells) if c.id.startswith("exercise-")}
    solutions = {c.id.removeprefix("solution-"): (i, c) for i, c in enumerate(cells) if c.id.startswith("solution-")}
    for name in solutions.keys() - exercises.keys():
        yield f"solution-{name} has no exercise"
    names: dict = {"__name__": "__main__"}
    for cell in cells if exercises else []:
        if cell.id in ("imports", "imports-page"):
            exec(compile(cell.source, f"<{cell.id}>", "exec"), names)
    for name, (place, exercise) in exercises.items():
        try:
            made, printed = reports_of(exercise.source, names)
        except Exception as error:
            yield f"exercise-{name} raises {error!r}"
            continue
        if not made:
            yield f"exercise-{name} calls no checker"
        elif any(report.passed for report in made):
            yield f"exercise-{name} passes as it stands"
        elif not all(report.text in printed for report in made):
            yield f"exercise-{name} does not print its report"
        if name not in solutions:
            yield f"exercise-{name} has no solution"
            continue
        later, solution = solutions[name]
        if later < place:
            yield f"solution-{name} stands before its exercise"
        if not {"hide-cell", "hide-input"} & set(solution.metadata.get("tags", [])):
            yield f"solution-{name} does not fold; tag it hide-cell"
        try:
            made, _ = reports_of(solution.source, names)
            if not made:    # the solution defines, and the exercise's last line checks
                made, _ = reports_of(last_statement(exercise.source), names)
        except Exception as error:
            yield f"solution-{name} raises {error!r}"
            continue
        if not made or not all(report.passed for report in made):
            yield f"solution-{name} does not pass"


@pytest.fixture(autouse=True)
def _dtype():
    "A page's imports may choose another one."
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def has_exercises(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return any(cell.id.startswith(("exercise-", "solution-")) for cell in code)


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if has_exercises(path)], ids=lambda path: path.stem)
def test_every_stub_fails_and_every_solution_passes(path):
    assert list(problems(nbformat.read(path, as_version=4))) == []


def test_there_are_exercises():
    assert len({path.parent for path in NOTEBOOKS}) > 5    # the rooms' too
    cells = [cell for path in NOTEBOOKS for cell in nbformat.read(path, as_version=4).cells]
    assert sum(cell.cell_type == "code" and cell.id.startswith("exercise-") for cell in cells) >= 5


STUB = "weights = None\n\ncheck.padded_weights(weights)"
RIGHT = "weights = [0.27, 0.73, 0]\n\ncheck.padded_weights(weights)"
WRONG = "weights = [0, 1, 0]\n\ncheck.padded_weights(weights)"


def made_of(exercise=STUB, solution=RIGHT, tags=("hide-cell",), order=1):
    cells = [("exercise-weights", exercise, []), ("solution-weights", solution, list(tags))][::order]
    cells = [("imports", "#| export\nfrom annotated_decoder import check", []), *cells]
    made = [nbformat.v4.new_code_cell(text, id=id, metadata={"tags": tags}) for id, text, tags in cells if text]
    return nbformat.v4.new_notebook(cells=made)


FAULTY = {
    "a stub that passes": (dict(exercise=RIGHT), "exercise-weights passes as it stands"),
    "no checker": (dict(exercise="weights = None"), "exercise-weights calls no checker"),
    "a stub that raises": (dict(exercise="weights = unknown\n" + STUB), "exercise-weights raises"),
    "a stub whose report is swallowed": (
        dict(exercise="import contextlib\nwith contextlib.redirect_stdout(None):\n    check.padded_weights(0)"),
        "exercise-weights does not print its report",
    ),
    "no solution": (dict(solution=""), "exercise-weights has no solution"),
    "no exercise": (dict(exercise=""), "solution-weights has no exercise"),
    "a solution that fails": (dict(solution=WRONG), "solution-weights does not pass"),
    "a solution that fails, checked by the exercise's line": (dict(solution="weights = 0"), "does not pass"),
    "a solution that raises": (dict(solution="1 / 0"), "solution-weights raises ZeroDivisionError"),
    "a solution that is open": (dict(tags=()), "solution-weights does not fold"),
    "a solution before its exercise": (dict(order=-1), "solution-weights stands before its exercise"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_exercise_is_seen(fault):
    parts, told = FAULTY[fault]
    found = list(problems(made_of(**parts)))
    assert len(found) == 1 and told in found[0]


def test_a_right_exercise_has_no_problem():
    for parts in ({}, {"tags": ["hide-input"]}, {"exercise": WRONG}, {"solution": "weights = [0.269, 0.731, 0]"}):
        assert list(problems(made_of(**parts))) == []
