"""Pictures: a diagram is sound SVG that fits its boxes, its page and its words; a number can be read on its cell."""

import json
import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

matplotlib.use("agg")

from annotated_decoder.teaching.diagrams import (  # noqa: E402
    AROUND,
    ARROWS,
    BOXES,
    FLOWS,
    LIT_ARROWS,
    attention_diagram,
    loop_unrolled,
    model_map,
    you_are_here,
)
from annotated_decoder.teaching.drawing import INK, KINDS, LIT, Diagram, bars, heat_map, ink_on  # noqa: E402

CHAPTERS = sorted({chapter for *_, chapters in BOXES.values() for chapter in chapters.split()})
WORD = "D IH0 K OW1 D ER0 </s>".split()
BEST = [[(token, 0.9), ("AH0", 0.06), ("<pad>" if i == 3 else "B", 0.04)] for i, token in enumerate(WORD)]
SIZES = dict(b=1, t=3, s=10, d=192, h=4, head_dim=48)
PICTURES = {chapter: lambda chapter=chapter: model_map(chapter) for chapter in CHAPTERS} | {
    "loop": lambda: loop_unrolled(WORD, candidates=BEST),
    "cached loop": lambda: loop_unrolled(["a", "b", "</s>"], cached=True),
    "one pass": lambda: loop_unrolled(["</s>"]),
    "cross": lambda: attention_diagram(lit=["W_K", "W_V", "memory", "hide masked keys", "padding mask"]),
    "cross in numbers": lambda: attention_diagram(sizes=SIZES),
    "self": lambda: attention_diagram(cross=False),
    "self in numbers": lambda: attention_diagram(cross=False, sizes=SIZES),
}
each_picture = pytest.mark.parametrize("name", PICTURES)


def svg(diagram):
    return ElementTree.fromstring(diagram._repr_html_())[0]


def texts(diagram):
    "Each line of text with its left, right and middle height as drawn in a wide font, and the point it is set around."
    for element in svg(diagram).iter("text"):
        size, x, y = (float(element.get(key)) for key in ("font-size", "x", "y"))
        line = "".join(element.itertext())
        font = FontProperties(family="DejaVu Sans", weight=element.get("font-weight", "normal"))
        width = TextPath((0, 0), line, size=size, prop=font).get_extents().width if line.strip() else 0
        left = x - width * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor")]
        if "transform" not in element.attrib:    # a turned line stands alone at the side
            yield line, left, left + width, y - 0.35 * size, x


def inside(box, x, y):
    return box.x <= x <= box.x + box.width and box.y <= y <= box.y + box.height


@each_picture
def test_a_diagram_is_sound_always_the_same_and_refers_to_nothing(name):
    html = PICTURES[name]()._repr_html_()
    assert html == PICTURES[name]()._repr_html_()
    root = ElementTree.fromstring(html)    # well formed
    assert not any({"id", "class", "href"} & element.attrib.keys() for element in root.iter())    # none can clash
    assert "url(" not in html and "<style" not in html
    picture = root[0]
    assert picture.get("role") == "img" and len(picture.get("aria-label").split()) >= 5
    assert repr(PICTURES[name]()) == picture.get("aria-label")


@each_picture
def test_colours_are_the_page_s_own_but_for_what_is_lit(name):
    diagram = PICTURES[name]()
    colours = {element.get(key) for element in svg(diagram).iter() for key in ("fill", "stroke")} - {None}
    hues = {KINDS[kind][0] for kind in ("letter", "sound", "memory")}
    assert colours - {"none", "currentColor", LIT, INK} == {KINDS[b.kind][0] for b in diagram.boxes.values()} & hues
    lit = [rect for rect in svg(diagram).iter("rect") if rect.get("fill") == LIT]
    assert len(lit) == sum(box.lit for box in diagram.boxes.values())
    assert all(float(rect.get("stroke-width")) > 2 for rect in lit)    # never by colour alone
    bold = [text for text in svg(diagram).iter("text") if text.get("fill") == INK]
    assert len(bold) >= len(lit) and all(text.get("font-weight") == "bold" for text in bold)


@each_picture
def test_arrows_begin_and_end_on_the_edges_of_boxes(name):
    diagram = PICTURES[name]()
    tips = [tuple(map(float, head.get("points").split()[0].split(","))) for head in svg(diagram).iter("polygon")]
    assert len(tips) == len(diagram.arrows) > 0
    for path, tip in zip(diagram.arrows, tips, strict=True):
        assert all(sum(box.touches(end) for box in diagram.boxes.values()) == 1 for end in (path[0], path[-1]))
        assert np.allclose(tip, path[-1], atol=0.06)


@each_picture
def test_no_text_leaves_its_box_or_the_picture_and_no_box_covers_another(name):
    diagram = PICTURES[name]()
    boxes = list(diagram.boxes.values())
    for a, b in combinations(boxes, 2):
        apart = a.x + a.width < b.x or b.x + b.width < a.x or a.y + a.height < b.y or b.y + b.height < a.y
        assert apart, (a, b)
    for box in boxes:
        assert 0 < box.x and box.x + box.width < diagram.width and 0 < box.y and box.y + box.height < diagram.height
    for line, left, right, y, x in texts(diagram):
        assert 0 <= left and right <= diagram.width, line
        home = [box for box in boxes if inside(box, x, y)]
        for box in boxes:
            if box in home:
                assert box.x < left and right < box.x + box.width, (line, left, right, box)
            else:
                assert not inside(box, left, y) and not inside(box, right, y), (line, box)


@each_picture
def test_on_a_phone_the_text_is_at_least_9_pixels_high(name):
    diagram = PICTURES[name]()
    smallest = min(float(text.get("font-size")) for text in svg(diagram).iter("text"))
    shown = max(358, float(re.search(r"min-width: (\d+)px", svg(diagram).get("style"))[1]))
    assert smallest * min(1, shown / diagram.width) >= 8.99
    assert ("tabindex" in diagram._repr_html_()) == (shown > 358) == (diagram.width > 497)


def test_what_scrolls_is_reached_by_the_keyboard():
    long = ElementTree.fromstring(loop_unrolled(list("nebulizing"))._repr_html_())
    assert long.get("tabindex") == "0" and "overflow-x: auto" in long.get("style")


def test_labels_are_escaped():
    label = "<b> & \"c\" 'd' </b>"
    diagram = Diagram(200, 100, label)
    diagram.box(label, 20, 20, 160)
    diagram.text(10, 90, label)
    assert svg(diagram).get("aria-label") == label
    assert [text.text for text in svg(diagram).iter("text")] == [label, label]


def test_a_diagram_refuses_what_it_cannot_draw():
    diagram = Diagram(300, 200, "two boxes side by side, and one askew")
    one = diagram.box("one", 10, 10, 50)
    diagram.box("two", 100, 10, 50)
    diagram.box("askew", 200, 120, 50)
    for mistake, told in (
        (lambda: Diagram(10, 10, " \n"), "alternative text is empty"),
        (lambda: diagram.box("one", 0, 0, 10), "a box 'one' already"),
        (lambda: diagram.arrow("one", "three"), "no box 'three'; there are one, two, askew"),
        (lambda: diagram.arrow("one", "askew"), "do not face each other"),
        (lambda: diagram.arrow((35, 20), one.edge("top")), r"\(35, 20\) is on no box's edge"),
        (lambda: diagram.arrow(one.edge("top"), (0, 0)), r"\(0, 0\) is on no box's edge"),
        (lambda: one.edge("north"), "side is 'north'"),
        (lambda: model_map("poetry"), "'poetry'"),
        (lambda: you_are_here("poetry"), "'poetry'"),
        (lambda: diagram.box("odd", 0, 0, 10, kind="smell"), "kind is 'smell'; give one of '', 'letter', 'sound'"),
        (lambda: loop_unrolled([]), "0 tokens"),
        (lambda: loop_unrolled(["a"], candidates=[[], []]), "1 tokens and 2 rows"),
        (lambda: attention_diagram(sizes={"b": 1}), "sizes have no"),
        (lambda: attention_diagram(lit=["W_X"]), "no box 'W_X'"),
    ):
        with pytest.raises(ValueError, match=told):
            mistake()
    assert len(diagram.boxes) == 3 and diagram.arrows == []
    diagram.arrow("two", "one")
    assert diagram.arrows == [[(100, 27), (60, 27)]]


def test_every_chapter_that_shows_the_map_lights_boxes_of_it():
    notebooks = sorted((Path(__file__).resolve().parent.parent / "notebooks").rglob("*.ipynb"))
    assert len(notebooks) >= 35    # the chapters and the rooms' notebooks
    cells = [cell for path in notebooks for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    shown = {name for cell in cells for name in re.findall(r'^you_are_here\("(\w+)"\)', "".join(cell["source"]))}
    assert len(shown) > 10 and shown <= set(CHAPTERS)
    assert {name for start, end, _ in ARROWS for name in (start, end)} | {*AROUND} <= BOXES.keys()
    assert LIT_ARROWS.keys() <= set(CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_map_says_in_words_what_is_lit(chapter):
    diagram = model_map(chapter)
    lit = [name for name, box in diagram.boxes.items() if box.lit]
    told = diagram.alt.partition("Lit: ")[2].rstrip(".").split(", ")
    assert lit and told == lit + [LIT_ARROWS[name] for name in LIT_ARROWS if name == chapter]
    thick = [line for line in svg(diagram).iter("polyline") if float(line.get("stroke-width")) > 2]
    assert len(thick) == (chapter in LIT_ARROWS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_rail_lights_what_the_map_lights_in_the_same_order(chapter):
    rail, boxes = you_are_here(chapter), model_map(chapter).boxes
    root = ElementTree.fromstring(rail._repr_html_())
    assert root.get("role") == "img" and root.get("aria-label") == repr(rail)
    tiles = [tile for tile in root.iter("span") if "border-radius: 4px" in tile.get("style", "")]
    assert len(tiles) == len(boxes)
    for tile, (name, box) in zip(tiles, boxes.items(), strict=True):
        style = tile.get("style")
        assert (f"background: {LIT}" in style) == ("font-weight: 700" in style) == ("2px solid" in style) == box.lit
        assert KINDS[FLOWS.get(name, "")][0] in style and KINDS[box.kind][0] in style
    assert rail.alt.endswith(f"Here: {', '.join(name for name, box in boxes.items() if box.lit)}.")


@pytest.mark.parametrize("kind", ["letter", "sound", "memory"])
def test_labels_in_the_colour_of_their_kind_are_readable_on_white(kind):
    ax = heat_map(torch.zeros(1, 2), ["a"], ["b", "c"], kinds=(kind, ""))
    assert {label.get_color() for label in ax.get_yticklabels()} == {KINDS[kind][1]}
    assert {label.get_color() for label in ax.get_xticklabels()} == {INK}
    assert {label.get_color() for label in bars(torch.ones(2), "ab", kind=kind).get_xticklabels()} == {KINDS[kind][1]}
    assert 1.05 / (luminance(KINDS[kind][1]) + 0.05) >= 4.5
    with pytest.raises(ValueError, match="kind is 'smell'"):
        heat_map(torch.zeros(1, 1), ["a"], ["b"], kinds=("", "smell"))
    matplotlib.pyplot.close("all")


@pytest.mark.parametrize("cached", [False, True])
def test_the_loop_feeds_each_chosen_token_to_the_next_pass_and_the_memory_to_every_pass(cached):
    diagram = loop_unrolled(WORD, candidates=BEST, cached=cached)
    boxes, arrows = diagram.boxes, {(path[0], path[-1]) for path in diagram.arrows}
    for i, token in enumerate(WORD):
        read = [boxes[f"read {i} {j}"] for j in range(i + 1)]
        assert [box.text for box in read] == ["<s>", *WORD[:i]] and f"read {i} {i + 1}" not in boxes
        assert [box.dashed for box in read] == [cached] * i + [False]
        assert boxes[f"chosen {i}"].text == token and boxes[f"chosen {i}"].lit
        assert f"pass {i} reads {' '.join(['<s>', *WORD[:i]])} and chooses {token}" in diagram.alt
        assert sum(boxes["memory"].touches(a) and boxes[f"pass {i}"].touches(b) for a, b in arrows) == 1
        if i:
            assert (boxes[f"chosen {i - 1}"].edge("right"), read[-1].edge("left")) in arrows
    assert not any(boxes[f"chosen {len(WORD) - 1}"].touches(start) for start, _ in arrows)
    assert "the loop stops" in diagram.alt and "the loop stops" not in loop_unrolled(WORD[:-1]).alt
    assert ("are kept" in diagram.alt) == cached


def test_an_attention_layer_in_numbers_is_that_of_the_real_one():
    from annotated_decoder.attention import MultiHeadAttention, attention, attention_weights

    layer = MultiHeadAttention(d_model=SIZES["d"], n_heads=SIZES["h"])
    x, memory = torch.zeros(1, SIZES["t"], SIZES["d"]), torch.zeros(1, SIZES["s"], SIZES["d"])
    q, (k, v) = layer.queries(x), layer.keys_values(memory)
    lines = [line for line, *_ in texts(attention_diagram(sizes=SIZES))]
    parts = {"Q": q, "K": k, "V": v, "weights": attention_weights(q, k), "scores": q @ k.mT}
    for name, tensor in parts.items():
        assert lines[lines.index(name) + 2] == " × ".join(map(str, tensor.shape)), name
    for tensor in (x, memory, attention(q, k, v), layer(x, k, v)):
        assert " × ".join(map(str, tensor.shape)) in lines
    assert "d is 192" in attention_diagram(sizes=SIZES).alt


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return np.dot((0.2126, 0.7152, 0.0722), linear)


@pytest.mark.parametrize("highest", [1.0, 0.3])
def test_a_number_is_readable_on_its_cell(highest):
    weights = torch.linspace(0, 1, 24, dtype=torch.float64).view(4, 6)
    ax = heat_map(weights, list("abcd"), list("uvwxyz"), numbers=True, highest=highest)
    image = ax.images[0]
    numbers = ax.texts
    assert [text.get_text() for text in numbers] == [f"{w:.2f}" for w in weights.flatten().tolist()]
    for w, text in zip(weights.flatten().tolist(), numbers, strict=True):
        ground = image.cmap(image.norm(w))[:3]
        dark, light = sorted([luminance(ground), luminance(text.get_color())])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, w
    assert ink_on((1, 1, 1)) == "black" and ink_on((0, 0, 0)) == "white"
    matplotlib.pyplot.close("all")


def test_a_heat_map_has_a_row_for_each_query_and_a_column_for_each_key():
    ax = heat_map(torch.zeros(2, 3), ["B", "IY1"], ["b", "e", "e"])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["B", "IY1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["b", "e", "e"]
    assert "queries" in ax.get_ylabel() and "keys" in ax.get_xlabel()
    with pytest.raises(ValueError, match=r"\(1, 1\), labels \(2, 1\)"):
        heat_map(torch.zeros(1, 1), ["one", "two"], ["a"])
    matplotlib.pyplot.close("all")
