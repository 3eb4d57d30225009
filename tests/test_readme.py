"""What README tells a user to type runs as it stands, on words and texts as people write them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from annotated_decoder.pronunciation import pronouncer, rewrite
from annotated_decoder.pronunciation.model import pronounce

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.split("## Use the package")[1].split("\n## ")[0], re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python" and "load_pretrained" not in code]
SHELL = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("annotated-decoder pronounce")]
OWN = [line for line in SHELL if "model.safetensors" in line]

WORDS = ["Hello", "NEBULIZING", "well-known", "Café", "naïve", "CSR", "r2d2", "cat"]
TEXT = "“Hello, world!” said the CSR.\nCafé au lait: 3 cups — and well-known x-rays.\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path


def typed(folder, *command):
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": scripts + os.pathsep + os.environ["PATH"], "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8")


def test_readme_has_the_recipes_that_are_tried_here():
    assert len(COMMANDS) == 5 and len(PYTHON) == 1
    others = [line.split()[:2] for line in SHELL if line not in (*COMMANDS, *OWN)]
    assert others == [["pip", "install"], ["annotated-decoder", "translate"], ["annotated-decoder", "transcribe"]]
    assert [line.split()[1] for line in OWN] == ["train", "translate"]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_answers_all_that_can_be_said(folder, line):
    done = typed(folder, "sh", "-c", line)
    refused = "words.txt" in line or "text.txt" in line
    assert done.returncode == (1 if refused else 0)
    assert re.fullmatch(r"line \d+: '(r2d2|3)' has .*numbers in words\n" if refused else "", done.stderr)
    if "words.txt" in line:
        rows = [row.split("\t") for row in done.stdout.splitlines()]
        assert list(dict.fromkeys(row[0] for row in rows)) == [word for word in WORDS if word != "r2d2"]
        assert {len(row) for row in rows} == {3}
    elif "text.txt" in line:
        assert done.stdout == rewrite(TEXT, "ssml")
    elif "--text" in line:
        assert done.stdout == rewrite("Hello, world!\n") and re.fullmatch(r"{[A-Z0-2 ]+}, {[A-Z0-2 ]+}!\n", done.stdout)
    else:
        words = re.findall(r"\S+", line.split("pronounce")[1].replace("--steps", ""))
        assert done.stdout.endswith("".join(f"{word}\t{' '.join(pronounce(word))}\n" for word in words))


def test_data_of_ones_own_become_a_model_that_answers(folder):
    words = [a + b + c for a in "abcd" for b in "abcd" for c in "abcd"]
    (folder / "pairs.tsv").write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    (folder / "lines.txt").write_text("abcd\ndab\n")
    made, used = (typed(folder, "sh", "-c", line) for line in OWN)
    assert (made.returncode, used.returncode) == (0, 0)
    assert {"validation", "test"} < json.loads(made.stdout).keys()
    assert [len(line) > 1 for line in used.stdout.splitlines()] == [True, True]


def test_the_python_runs_as_it_stands(folder):
    done = typed(folder, sys.executable, "-c", PYTHON[0])
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()[-len(WORDS) :]
    told = dict(pronouncer().stream(WORDS, beam=5, best=3))
    for word, line in zip(WORDS, lines, strict=True):
        if isinstance(told[word], ValueError):
            assert line == str(told[word])
        else:
            assert line.startswith(f"{word} [(") and " ".join(told[word][0].symbols) in line and "True" in line


def test_the_formats_that_readme_names_are_those_that_there_are(folder):
    named = re.search(r"--format ssml < text.txt +# or (.*)", README)[1].split(", ")
    for format in named:
        done = typed(folder, "annotated-decoder", "pronounce", "--text", "--format", format, "cat")
        assert (done.returncode, done.stderr) == (0, "")
        assert format != "json" or json.loads(done.stdout)["word"] == "cat"
