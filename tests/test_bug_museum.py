"""Every exhibit of *The bug museum* has its six parts, and its bug is broken into the package or tried here."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
from torch.nn.functional import dropout

from annotated_decoder.attention import attention_weights
from annotated_decoder.caching import Cache
from annotated_decoder.decoder import StackConfig
from annotated_decoder.generation import EncoderDecoder, generate
from annotated_decoder.pronunciation.dictionary import score
from annotated_decoder.softmax import cross_entropy
from annotated_decoder.training import Example, collate

ROOT = Path(__file__).parents[1]
CELLS = json.loads((ROOT / "notebooks/16_bug_museum.ipynb").read_text(encoding="utf-8"))["cells"]
ROWS = [row for law in tomllib.loads((ROOT / "tests/mutations.toml").read_text(encoding="utf-8"))["law"]
        for row in law["mutation"]]    # fmt: skip
PARTS = ["What you would see", "Guess", "The one line", "What really happens", "The law", "Where it was seen"]
# Each exhibit's cells, and where its bug is killed: a row of mutations.toml (module, what), or a test of this file.
EXHIBITS = {
    "twice": ("softmax", "the logits go through a second softmax"),
    "shift": ("training", "the decoder is told what it should say next"),
    "parts": "test_parts_of_a_batch_give_the_gradient_of_the_whole",
    "width": ("attention", "no 1/√head_dim"),
    "empty": ("attention", "a hidden score is −∞, and a row of them NaN"),
    "stutter": ("decoder", "position 0 at every step"),
    "corner": ("attention", "the mask lines up with the first key"),
    "start": ("generation", "a decode begins with padding"),
    "scale": ("generation", "forward has a factor that decoding has not"),
    "rows": ("cross_attention", "padding hides rows, not columns"),
    "opposite": ("cross_attention", "True hides"),
    "norm": ("normalization", "the variance is the unbiased one"),
    "future": ("decoder", "the mask stands in training only"),
    "forced": "test_a_score_hears_only_what_the_model_wrote",
    "map": "test_a_row_of_a_map_adds_up_to_one",
    "leak": ("pronunciation.recipe", "all words are trained on"),
}


def source(cell):
    return "".join(cell["source"])


def exhibit(name):
    "The cells of an exhibit, from its heading to the next heading."
    start = next(i for i, cell in enumerate(CELLS) if cell["id"] == name)
    heads = [i for i, cell in enumerate(CELLS) if cell["cell_type"] == "markdown" and source(cell).startswith("##")]
    return CELLS[start : next(i for i in heads if i > start)]


def text_of(cells, kind):
    return "\n".join(source(cell) for cell in cells if cell["cell_type"] == kind)


def test_there_are_sixteen_in_order():
    end = [cell["id"] for cell in CELLS].index("exercises")
    heads = re.findall(r"^### (\d+)\. .*", text_of(CELLS[:end], "markdown"), re.M)
    assert [*map(int, heads)] == [*range(1, 17)]
    named = [cell["id"] for cell in CELLS if re.match(r"### \d+\. ", source(cell)) and cell["id"] in EXHIBITS]
    assert named == [*EXHIBITS]


@pytest.mark.parametrize("name", EXHIBITS)
def test_an_exhibit_has_its_six_parts(name):
    cells = exhibit(name)
    text = text_of(cells, "markdown")
    places = [text.find(f"**{part}") for part in PARTS]
    assert -1 not in places and places == sorted(places)
    assert f"{name}-seen" in [cell["id"] for cell in cells]
    assert cells[0]["id"] == name and cells[-1]["id"] == f"{name}-why"
    seen = re.findall(r"https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+", text)
    assert seen and "github.com" not in text[: places[-1]]


@pytest.mark.parametrize("name", EXHIBITS)
def test_behind_the_guess_one_fold_holds_the_answer_and_no_code_above_it_is_open(name):
    cells = exhibit(name)
    above, *folded = text_of(cells, "markdown").split('\n\n<details class="answer"><summary>')
    assert "**Guess" in above and "```" not in above and len(folded) == 1
    assert "**The one line" in folded[0] and folded[0].endswith("\n\n</details>")
    seen = [cell for cell in cells if cell["id"].startswith(f"{name}-seen")]
    for cell in seen:    # in Colab and JupyterLab its code has the bug in it
        assert source(cell).startswith("#@title What you would see\n") and "hide-input" in cell["metadata"]["tags"]
        assert cell["metadata"]["cellView"] == "form" and cell["metadata"]["jupyter"]["source_hidden"]
    order = [cell["id"] for cell in cells]
    measured = [f"{name}-measured"] if f"{name}-measured" in order else []    # what another processor rounds otherwise
    lines = [f"{name}-line", *measured, f"{name}-law", f"{name}-why"]
    assert order == [name, *(cell["id"] for cell in seen), *lines]


@pytest.mark.parametrize("name", EXHIBITS)
def test_the_law_was_run_and_is_red_on_the_bug_and_green_on_the_right_code(name):
    (law,) = (cell for cell in exhibit(name) if cell["id"] == f"{name}-law")
    printed = "".join("".join(out.get("text", "")) for out in law["outputs"])
    found = re.findall(r"^The law: .*\n  right code +(\w+)\n  the bug +(\w+)$", printed, re.M)
    assert found and {*found} == {("holds", "BROKEN")}


def code_lines(text):
    "Its lines, without the blanks and remarks around them."
    return {re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines()}


@pytest.mark.parametrize("name", EXHIBITS)
def test_the_lines_of_a_diff_are_those_of_the_code(name):
    cells = exhibit(name)
    (diff,) = re.findall(r"```diff\n(.*?)```", text_of(cells, "markdown"), re.S)
    old = {line[1:].strip() for line in diff.splitlines() if line[0] == "-"}
    new = {line[1:].strip() for line in diff.splitlines() if line[0] == "+"}
    package = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/annotated_decoder").rglob("*.py"))
    assert len(old) == 1 and old <= code_lines(package + text_of(CELLS, "code"))
    assert 1 <= len(new) <= 2 and new <= code_lines(text_of(cells, "code"))


@pytest.mark.parametrize("name", EXHIBITS)
def test_its_bug_is_killed_by_a_row_or_a_test(name):
    place = EXHIBITS[name]
    if isinstance(place, str):
        assert callable(globals()[place])
    else:
        (row,) = (row for row in ROWS if (row["module"], row["what"]) == place)
        assert row["killed_by"].startswith("test_")


def test_every_cell_of_an_exhibit_is_python_of_at_most_25_lines():
    for name in EXHIBITS:
        for cell in exhibit(name):
            if cell["cell_type"] == "code":
                assert ast.parse(source(cell)) and len(source(cell).splitlines()) <= 25


def small(seed=0):
    torch.manual_seed(seed)
    shape = dict(vocab_size=9, max_len=12, d_model=16, n_heads=2, d_ff=32, n_layers=1, dropout=0.0)
    return EncoderDecoder.of(StackConfig(**shape), StackConfig(**shape)).eval()


BATCH = collate([Example([3, 4, 5, 2], [6, 7]), Example([5, 3, 2], [8, 3, 4, 4, 5]), Example([7, 2], [3])])


def test_without_dropout_the_whole_model_writes_as_it_was_trained():
    model = small()
    given = BATCH.source, BATCH.inputs, BATCH.source_mask
    torch.testing.assert_close(model.train()(*given), model.eval()(*given), rtol=0, atol=0)


def test_what_writes_has_the_logits_of_forward():
    model, cache = small(), Cache()
    memory = model.encode(BATCH.source, BATCH.source_mask)
    steps = [model.decode(new, memory, BATCH.source_mask, cache) for new in BATCH.inputs.split(1, 1)]
    given = BATCH.source, BATCH.inputs, BATCH.source_mask
    torch.testing.assert_close(torch.cat(steps, 1), model(*given), rtol=1e-4, atol=1e-5)


def gradient(*batches, share=lambda batch: 1.0):
    model = small()
    for batch in batches:
        logits = model(batch.source, batch.inputs, batch.source_mask)
        (share(batch) * cross_entropy(logits, batch.targets, batch.target_mask)).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    rows = [type(BATCH)(*(x[i : i + 1] for x in BATCH)) for i in range(3)]
    whole, total = gradient(BATCH), BATCH.target_mask.sum()
    right = gradient(*rows, share=lambda row: row.target_mask.sum() / total)
    torch.testing.assert_close(right, whole, rtol=1e-4, atol=1e-6)
    for bug in (gradient(*rows), gradient(*rows, share=lambda row: 1 / 3)):
        assert not torch.allclose(bug, whole, rtol=1e-2, atol=1e-4)


def test_a_score_hears_only_what_the_model_wrote():
    def written(model, batch):
        return generate(model, batch.source, batch.source_mask, max_steps=6).tolist()

    def forced(model, batch):
        return model(batch.source, batch.inputs, batch.source_mask).argmax(-1).tolist()

    model, other = small(), BATCH._replace(inputs=BATCH.inputs.flip(0))
    assert written(model, BATCH) == written(model, other)
    assert forced(model, BATCH) != forced(model, other)


def test_a_score_by_edits_forgives_a_shift():
    right = {"read": ["R", "EH1", "D"]}
    assert score({"read": ["EH1", "D"]}, {"read": [tuple(right["read"])]})["per"] == pytest.approx(1 / 3)


def test_a_row_of_a_map_adds_up_to_one():
    torch.manual_seed(0)
    weights, ones = attention_weights(torch.randn(5, 4), torch.randn(5, 4)), torch.ones(5)
    assert torch.allclose(weights.sum(-1), ones) and weights.max() <= 1
    for bug in (dropout(weights, 0.2), weights.T):
        assert not torch.allclose(bug.sum(-1), ones, atol=0.01)
