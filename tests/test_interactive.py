"""An interactive piece is one string: self-contained, the same on every run, and safe whatever its labels hold."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from annotated_decoder.pronunciation.model import steps
from annotated_decoder.teaching.attention_steps import AttentionRecord, attention_steps, record_word
from annotated_decoder.teaching.interactive import Piece, as_json, still_table

HOSTILE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>&amp;\u2028'\"</style>"
SVG = "http://www.w3.org/2000/svg"


def weights(layers=2, heads=3, target=2, source=4, seed=0):
    return torch.rand(layers, heads, target, source, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def record(name="word", source=4, target=2, **changes):
    tokens = [f"s{i}" for i in range(source)], [f"t{i}" for i in range(target)]
    fields = dict(source=tokens[0], target=tokens[1], weights=weights(target=target, source=source))
    return AttentionRecord(**{"name": name, "probabilities": [0.5] * target, **fields, **changes})


def piece(label="A piece", **changes):
    fields = dict(data={"p": [0.25]}, still="<p>a quarter</p>", script="stage.append(data.p[0]);")
    return Piece(**{"label": label, **fields, **changes})


class Reader(HTMLParser):
    "Every element with its attributes, and the text of scripts, as a browser splits them."

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        (self.scripts if self.cdata_elem == "script" else self.texts).append(data)

    def names(self):
        return [tag for tag, _ in self.tags]


leaves = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([HOSTILE, "]]>", "<!--", "</SCRIPT"])
trees = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(trees)
def test_json_says_the_same_and_nothing_in_it_can_end_a_script(data):
    text = as_json(data)
    assert json.loads(text) == data
    assert not set(text) & set("<>&\u2028\u2029") and text.isascii()


@given(st.lists(st.floats(-1e6, 1e6)))
def test_floats_are_rounded_and_zero_has_no_sign(values):
    found = json.loads(as_json(values, digits=2))
    assert all(abs(a - b) <= 0.005 + 1e-9 for a, b in zip(found, values, strict=True))
    assert "-0.0" not in re.findall(r"-?[\d.]+", as_json([-0.001, -0.0], digits=2))
    assert as_json([1 / 3]) == "[0.333]"


@pytest.mark.parametrize(
    "bad, named",
    [
        ({"a": [1.0, math.nan]}, r"data\['a'\]\[1\] is the number nan"), ([math.inf], r"data\[0\] is the number inf"),
        ({"w": torch.ones(2)}, r"data\['w'\] is of type Tensor"), ([{1, 2}], r"data\[0\] is of type set"),
        ({"a": {3: 1}}, r"data\['a'\] has the key 3"), ([torch.ones(1).numpy()[0]], r"data\[0\] is of type float32"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_by_its_place(bad, named):
    for make in (as_json, lambda data: piece(data=data)):
        with pytest.raises(ValueError, match=named):
            make(bad)


def test_a_piece_is_the_same_on_every_run_and_another_content_is_another_id():
    assert piece().html == piece().html and piece().id in piece().html
    changes = dict(label="B", data={"p": [0.26]}, still="<p>b</p>", script="stage.append(1);", style="& p { top: 0 }")
    ids = {piece().id, *(piece(**{name: value}).id for name, value in changes.items())}
    assert len(ids) == len(changes) + 1
    assert piece(data={"p": [0.2500001]}).html == piece().html    # another processor's last digit


def test_a_piece_is_shown_by_its_html_and_named_by_its_label():
    assert piece()._repr_mimebundle_() == {"text/html": piece().html, "text/plain": "A piece"}


def test_a_piece_asks_for_nothing_and_leaves_no_name_and_no_id_on_the_page():
    for made in (piece(), attention_steps([record()], "steps")):
        assert "//" not in re.sub(r"(?m)(^|\s)//.*$", "", made.html.replace(SVG, "").replace("</", ""))
        read = Reader(made.html)
        assert not [(tag, a) for tag, a in read.tags if {"src", "href", "id", "onclick", "onload"} & a.keys()]
        assert read.names()[0] == "figure" and read.names().count("script") == 2
        assert "link" not in read.names() and "@import" not in made.html and "url(" not in made.html
        assert read.scripts[1].strip().startswith("(() => {") and read.scripts[1].strip().endswith("})();")
        style = re.search(r"<style>(.*?)</style>", made.html, re.DOTALL)[1]
        assert style.startswith(f'.annotated-piece.annotated-piece[data-piece="{made.id}"] {{') and style[-1] == "}"
        assert style.count("{") == style.count("}")


@given(st.text(min_size=1).filter(str.strip) | st.just(HOSTILE))
def test_labels_are_text_wherever_they_stand(label):
    made = attention_steps([replace(record(label), source=[label, "b", "c", "d"], target=[label, "t"])], label)
    read, plain = Reader(made.html), Reader(attention_steps([record("word")], "steps").html)
    assert read.names() == plain.names()    # not one element more
    assert read.tags[0][1]["aria-label"] == label
    assert json.loads(read.scripts[0])["words"][0]["source"][0] == label


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(label=" "), "label is ' '"), (dict(still=""), "still is ''"),
        (dict(script="'</SCRIPT>'"), "script holds '</script'"), (dict(script="'<!--'"), "script holds '<!--'"),
        (dict(style="</style>"), "style holds '</style'"), (dict(still="<Script>"), "still holds '<script'"),
    ],
)  # fmt: skip
def test_parts_that_would_end_themselves_are_refused(changes, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        piece(**changes)


def test_the_still_table_says_every_number_and_marks_the_largest_of_each_row():
    table = still_table([[0.1, 0.9], [0.75, 0.25]], ["<r>", "s"], ["a", "<b>"], "a caption")
    read = Reader(table)
    texts = ["a caption", "a", "<b>", "<r>", "0.10", "0.90", "s", "0.75", "0.25"]
    assert [text.strip() for text in read.texts if text.strip()] == texts
    assert re.findall(r"<strong>(.*?)</strong>", table) == ["0.90", "0.75"]
    assert read.names().count("th") == 4
    for rows, columns in ((["r"], ["a", "b"]), (["r", "s"], ["a"])):
        with pytest.raises(ValueError, match="are labelled"):
            still_table([[0.1, 0.9], [0.75, 0.25]], rows, columns, "a caption")


def test_the_still_figure_of_attention_is_the_named_layers_mean():
    one = record()
    made = attention_steps([one, record("other", source=3, weights=weights(source=3))], "steps", layer=1)
    numbers = [float(n) for n in re.findall(r"<td style=\"--w:(\d\.\d\d)\"", made.still)]
    assert torch.allclose(torch.tensor(numbers), one.weights[1].mean(0).flatten(), atol=0.0051)
    assert [word["name"] for word in made.data["words"]] == ["word", "other"] and made.data["start"] == "<s>"


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(source=["a"]), r"weights are \(2, 3, 2, 4\); give \(layers, heads, 2, 1\)"),
        (dict(target=["a"]), r"give \(layers, heads, 1, 4\)"),
        (dict(weights=torch.ones(2, 4)), r"weights are \(2, 4\)"),
        (dict(weights=weights()[:0]), r"weights are \(0, 3, 2, 4\)"),
        (dict(probabilities=[0.5]), "1 probabilities for 2"),
        (dict(weights=2 * weights()), "no distribution"),
        (dict(weights=weights() * torch.nan), "no distribution"),
        (dict(weights=weights() + torch.tensor([2.0, -2, 0, 0])), "no distribution"),
    ],
)
def test_records_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        replace(record(), **changes)


def test_words_of_different_models_and_unknown_layers_are_refused():
    for records, layer, named in (
        ([], 0, "no records"),
        ([record(), record()], 0, r"\['word', 'word'\]"),
        ([record(), record("b", weights=weights(layers=1))], 0, r"\[\(1, 3\), \(2, 3\)\]"),
        ([record()], 2, "layer is 2"),
        ([record()], -1, "layer is -1"),
    ):
        with pytest.raises(ValueError, match=named):
            attention_steps(records, "steps", layer)


def test_the_recorded_weights_are_those_of_the_loop(trained):
    found, loop = record_word(trained, "psalm"), list(steps("psalm", attention_layer=2))
    assert list(found.target) == [step.phoneme for step in loop] and found.target[-1] == "</s>"
    assert found.source == [*"psalm", "</s>"]
    assert torch.allclose(found.weights[2].mean(0), torch.stack([step.attention for step in loop]), atol=1e-4)
    best = torch.tensor([step.probabilities.max() for step in loop])
    assert torch.allclose(torch.tensor(found.probabilities), best, atol=1e-4)
