"""A query dragged and turned shows what `attention` computes, and a painted mask shows what its power lets through."""

import math
import re

import pytest
import torch
from browsing import listen, violations

from annotated_decoder.attention import attention, attention_weights, causal_mask
from annotated_decoder.teaching.attending import drag_a_query, paint_a_mask, query_plane, reachable

PENCIL = (
    torch.tensor([2.0, 1, 0, 1]).double(),
    torch.tensor([[-2.0, 0, 2, -2], [1, -2, -1, 2], [2, 3, 3, -2]]).double(),
    torch.tensor([[-2.0, 0, 2, 0], [-1, 2, -2, -1], [0, -3, 2, -1]]).double(),
)
TOKENS = ["<s>", "F", "OW1", "T", "OW0", "<pad>"]


@pytest.fixture
def shown(browser):
    "A function that shows a piece alone: its tab and its element; at the end nothing was complained of."
    contexts, heard = [], []

    def show(piece, **settings):
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        heard.append(listen(tab)[0])
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>a piece</title>'
        tab.set_content(f'<!doctype html><html lang="en"><head>{head}</head><body>{piece.html}</body></html>')
        return tab, tab.locator(".annotated-piece")

    yield show
    for context in contexts:
        context.close()
    assert heard and not any(heard)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def said(root):
    return root.get_by_role("status").inner_text()


def slide(root, label, value):
    "Set a slider; what it has then, in words."
    slider = root.get_by_label(label)
    slider.evaluate("(e, value) => { e.value = value; e.dispatchEvent(new Event('input')); }", value)
    return float(slider.get_attribute("aria-valuetext").rstrip("°"))


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text.replace("−", "-"))]


def column(root, kind):
    return [numbers(text)[0] for text in root.locator(f"tbody .{kind}").all_inner_texts()]


WIDE = drawn(0, 7), drawn(1, 5, 7), drawn(2, 5, 3)


@pytest.mark.parametrize("q, k, v", [PENCIL, WIDE, (drawn(3, 2), drawn(4, 3, 2), drawn(5, 3, 2))])
def test_scores_weights_and_average_are_those_of_attention(shown, q, k, v):
    _, root = shown(drag_a_query(q, k, v, "A query"))
    plane, step = query_plane(q, k), q.norm().item() / max(1, round(20 * q.norm().item()))
    for degrees, n in ((0, 30), (77, 12), (199, 55), (311, 0)):
        slide(root, "direction", degrees)
        length = step * n
        assert slide(root, "length", n) == pytest.approx(length, abs=0.0051)
        angle = math.radians(degrees)
        query = length * torch.tensor([[math.cos(angle), math.sin(angle)]]).double() @ plane
        for without in (False, True):
            root.get_by_role("checkbox").set_checked(without)
            scale = 1.0 if without else None
            weights = attention_weights(query, k, scale=scale)[0]
            scores = (query @ k.T)[0] * (1 if without else len(q) ** -0.5)
            average = attention(query, k, v, scale=scale)[0].tolist()
            assert column(root, "score") == pytest.approx(scores.tolist(), abs=0.006)
            assert column(root, "weight") == pytest.approx(weights.tolist(), abs=1e-3)
            assert numbers(root.locator(".sum").inner_text()) == pytest.approx(average, abs=1.2e-3)
            assert numbers(said(root))[-len(average) :] == pytest.approx(average, abs=1.2e-3)
            largest = weights.argmax().item()
            lit = root.locator("tbody tr").evaluate_all("all => all.map(tr => tr.querySelector('.lit') !== null)")
            if length:
                assert lit.index(True) == largest and lit.count(True) == 1
                assert f"key {largest} has the largest weight, {weights[largest]:.3f}"[:-1] in said(root)


def test_a_piece_begins_with_the_chapter_s_numbers(shown):
    _, root = shown(drag_a_query(*PENCIL, "A query"))
    assert column(root, "score") == [-3, 1, 2.5] and column(root, "weight") == [0.003, 0.182, 0.815]
    assert said(root).startswith("At 0° and length 2.45, key 2 has the largest weight, 0.815; the average")
    slide(root, "length", 0)
    assert said(root).startswith("The query has no length, so every score is 0 and every key has the weight 0.333;")
    slide(root, "length", 999)
    slide(root, "direction", 66)
    assert said(root).endswith("nearly the value of key 2 alone.")


PICTURE = """svg => [...svg.querySelectorAll(".dot")].map(dot => [+dot.getAttribute("cx"), +dot.getAttribute("cy")])"""


def test_the_average_is_drawn_among_the_values_and_the_dots_grow_with_their_weights(shown):
    _, root = shown(drag_a_query(*WIDE, "A query"))
    picture = root.get_by_role("img", name="values and average")
    for degrees in range(0, 360, 50):
        slide(root, "direction", degrees)
        weights, dots = torch.tensor(column(root, "weight")).double(), torch.tensor(picture.evaluate(PICTURE)).double()
        path = picture.locator(".average").get_attribute("d")
        end = torch.tensor([float(x) for x in re.findall(r"-?[\d.]+(?:e-\d+)?", path)[2:4]]).double()
        assert torch.allclose(end, weights @ dots, atol=0.5)
        sizes = [float(dot.get_attribute("r")) for dot in picture.locator(".dot").all()]
        assert sorted(range(5), key=sizes.__getitem__) == weights.argsort().tolist()


def tip(root):
    box = root.locator(".tip").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_tip_is_dragged_and_the_sliders_follow(shown):
    tab, root = shown(drag_a_query(*PENCIL, "A query"))
    box = root.get_by_role("img", name="keys and query").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(*tip(root))
    tab.mouse.down()
    for x, y, degrees in ((60, 0, 0), (40, -40, 45), (0, 50, 270), (-70, 0, 180)):
        tab.mouse.move(middle[0] + x, middle[1] + y)
        assert root.get_by_label("direction").input_value() == str(degrees)
        assert math.dist(tip(root), (middle[0] + x, middle[1] + y)) < 4 and f"At {degrees}° and" in said(root)
    tab.mouse.move(middle[0] + 5000, middle[1])    # no longer than the slider allows
    assert root.get_by_label("length").input_value() == root.get_by_label("length").get_attribute("max")
    tab.mouse.up()
    before = said(root)
    tab.mouse.move(*middle)    # it is let go
    assert said(root) == before


def test_a_finger_moves_it_too(shown):
    tab, root = shown(drag_a_query(*PENCIL, "A query"), has_touch=True, viewport={"width": 390, "height": 800})
    box = root.get_by_role("img", name="keys and query").bounding_box()
    tab.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    assert "At 90° and" in said(root)
    assert root.get_by_role("img", name="keys and query").evaluate("e => getComputedStyle(e).touchAction") == "none"
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def spot(root, q, k):
    return root.get_by_label(f"position {q} ({TOKENS[q]}) may look at position {k} ({TOKENS[k]})", exact=True)


def painted(root):
    "The mask as the buttons say it."
    pressed = root.locator(".spot").evaluate_all("all => all.map(e => [e.ariaPressed === 'true', e.textContent])")
    assert all((text == "✓") == on for on, text in pressed)
    return torch.tensor([on for on, _ in pressed]).view(len(TOKENS), -1)


READ = """rows => rows.map(row => [...row.querySelectorAll("td:not(.verdict)")].map(cell => cell.className || ""))"""


def test_what_reaches_an_output_is_the_power_of_any_mask_and_later_tokens_are_leaks(shown):
    n, real = len(TOKENS), len(TOKENS) - 1
    for seed in range(6):
        mask = drawn(seed, n, n) > (0.4, 1.0)[seed % 2]
        _, root = shown(paint_a_mask(TOKENS, "A mask", mask))
        assert torch.equal(painted(root), mask)
        for layers in (1, 2, 3, 4):
            slide(root, "layers", layers)
            found, expected = root.locator(".reach tbody tr").evaluate_all(READ), reachable(mask, layers)
            copies = [q for q in range(real - 1) if expected[q, q + 1]]
            leaks = [q for q in range(real) if expected[q, q + 1 : real].any()]
            for q in range(n):
                for k in range(n):
                    leak = q < k < real
                    kind = ("lit" if k == q + 1 else "leak") if leak else "seen"
                    assert found[q][k] == (kind if expected[q, k] else "")
            through = f"Through {layers} layer{'s' if layers > 1 else ''}"
            if copies:
                q = copies[0]
                what = f"position {q} ({TOKENS[q]}) sees token {q + 1}, {TOKENS[q + 1]}, which it should predict."
                assert said(root).startswith(f"{through} {what} Training could copy the answer at {len(copies)} of 4")
            elif leaks:
                assert said(root).startswith(f"{through} position {leaks[0]} ") and "too early" in said(root)
            else:
                assert said(root).startswith(f"{through} no position sees a later token")
            blind = [f"{q} ({TOKENS[q]})" for q in range(n) if not mask[q].any()]
            places = f" Position{'s' if len(blind) > 1 else ''} {', '.join(blind)}"
            nowhere = f"{places} may look nowhere, so attention gives 0 there."
            assert said(root).endswith(nowhere) if blind else "nowhere" not in said(root)


def test_the_buttons_paint_the_masks_that_they_name(shown):
    _, root = shown(paint_a_mask(TOKENS, "A mask"))
    own, everything = torch.eye(6).bool(), torch.ones(6, 6).bool()
    unpadded = everything.clone()
    unpadded[:, 5] = False
    names = {"none but itself": own, "all": everything, "all but padding": unpadded, "causal": causal_mask(6, 6)}
    for name, mask in names.items():
        root.get_by_role("button", name=name, exact=True).click()
        assert torch.equal(painted(root), mask)
        pressed = [other for other in names
                   if root.get_by_role("button", name=other, exact=True).get_attribute("aria-pressed") == "true"]
        assert pressed == [name]    # fmt: skip
    assert shown(paint_a_mask(TOKENS[:5], "A mask"))[1].get_by_role("button", name="all but padding").count() == 0


def test_one_wrong_cell_leaks_further_with_every_layer(shown):
    _, root = shown(paint_a_mask(TOKENS, "A mask"))
    assert said(root) == "Through 1 layer no position sees a later token, so each has to predict."
    spot(root, 0, 3).click()
    early = "Through 1 layer position 0 (<s>) sees token 3, T, too early: while generating it is not there yet."
    assert said(root) == early
    slide(root, "layers", 2)
    copied = "Through 2 layers position 0 (<s>) sees token 1, F, which it should predict."
    assert said(root) == f"{copied} Training could copy the answer at 2 of 4 positions."
    verdicts = root.locator(".verdict").all_inner_texts()
    assert verdicts[:4] == ["can copy F", "sees T too early", "can copy T", "has to predict"]
    spot(root, 0, 3).click()
    spot(root, 2, 5).click()
    assert "position 2 (OW1) sees token 3, T, which it should predict." in said(root)    # padding hands it on
    slide(root, "layers", 1)
    assert "but padding reaches position 2 (OW1), and more of it would change the output." in said(root)


def test_arrows_move_among_the_cells_and_a_mouse_that_is_held_paints(shown):
    tab, root = shown(paint_a_mask(TOKENS, "A mask"))
    spot(root, 1, 4).focus()
    for key, (q, k) in (("ArrowDown", (2, 4)), ("ArrowRight", (2, 5)), ("ArrowRight", (2, 5)), ("ArrowUp", (1, 5)),
                        ("ArrowLeft", (1, 4))):    # fmt: skip
        tab.keyboard.press(key)
        assert spot(root, q, k).evaluate("e => e === document.activeElement")
    tab.keyboard.press("Space")
    expected = causal_mask(6, 6)
    expected[1, 4] = True
    assert torch.equal(painted(root), expected)
    spot(root, 0, 1).hover()
    tab.mouse.down()
    for k in (2, 3, 4):
        spot(root, 0, k).hover()
    tab.mouse.up()
    expected[0, 1:5] = True
    assert torch.equal(painted(root), expected)
    spot(root, 4, 4).focus()
    tab.keyboard.press("Enter")    # then a key is a key again, and a click a click
    spot(root, 5, 0).click()
    expected[4, 4] = expected[5, 0] = False
    assert torch.equal(painted(root), expected)
    spot(root, 0, 0).hover()
    tab.mouse.down()
    spot(root, 0, 1).hover()
    spot(root, 0, 0).hover()    # back again, and let go there
    tab.mouse.up()
    expected[0, :2] = False
    assert torch.equal(painted(root), expected)
    root.locator("figcaption").hover()
    tab.mouse.down()
    spot(root, 3, 3).hover()    # what begins elsewhere is no painting
    tab.mouse.up()
    assert torch.equal(painted(root), expected)


@pytest.mark.parametrize("width", [1000, 390])
def test_eight_long_tokens_stay_on_the_page(shown, width):
    tab, root = shown(paint_a_mask([f"OW{i}NG" for i in range(8)], "A mask"), viewport={"width": width, "height": 800})
    root.get_by_role("button", name="all").first.click()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width and violations(tab, ".annotated-piece") == []


def test_on_paper_nobody_is_asked_to_press_or_to_drag(shown):
    for piece in (drag_a_query(*PENCIL, names=["x", "y", "z"], label="A query"), paint_a_mask(TOKENS, "A mask")):
        tab, root = shown(piece)
        asked = root.locator(".todo")
        assert asked.is_visible() and re.search("Press|Drag", asked.inner_text())
        tab.emulate_media(media="print")
        assert not asked.is_visible() and not re.search("Press|Drag", root.locator(".legend").inner_text())
