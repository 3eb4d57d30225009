"""The query's plane keeps its scores, the hull holds the average, and a mask's power says what really reaches what."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from annotated_decoder.attention import MultiHeadAttention, attention_weights, causal_mask
from annotated_decoder.teaching.attending import _hull, drag_a_query, paint_a_mask, query_plane, reachable

HOSTILE = "</script><img src=x>&'\""
TOKENS = ["<s>", "F", "OW1", "T", "<pad>"]
seeds = st.integers(0, 10_000)


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(seed=0, keys=4, width=6, value_width=3):
    return drawn(seed, width), drawn(seed + 1, keys, width), drawn(seed + 2, keys, value_width)


@given(seeds, st.integers(2, 9), st.integers(2, 6))
def test_a_query_in_the_plane_has_the_scores_that_it_has_outside(seed, width, n):
    query, keys, _ = example(seed, n, width)
    plane = query_plane(query, keys)
    assert torch.allclose(plane @ plane.T, torch.eye(2).double(), atol=1e-9)
    assert torch.allclose((keys @ plane.T) @ (plane @ query), keys @ query, atol=1e-9)
    turned = drawn(seed + 3, 2) @ plane    # any other query in it
    assert torch.allclose((keys @ plane.T) @ (plane @ turned), keys @ turned, atol=1e-9)


def test_the_plane_is_the_one_that_shows_most_of_the_keys_and_two_numbers_stay_as_they_are():
    query, keys, _ = example()
    plane = query_plane(query, keys)
    differ = keys - keys.mean(0)
    for seed in range(50):
        other = drawn(seed + 100, 6)
        other -= (other @ plane[0]) * plane[0]
        assert (differ @ other / other.norm()).norm() <= (differ @ plane[1]).norm() + 1e-9
    assert torch.equal(query_plane(query[:2], keys[:, :2]), torch.eye(2).double())


@given(seeds, st.integers(2, 12), st.booleans())
def test_the_hull_is_convex_has_all_points_inside_and_holds_every_average(seed, n, on_a_grid):
    points = drawn(seed, n, 2)
    points = points.round() if on_a_grid else points    # with points that fall together, or in one line
    corners = _hull(points.tolist())
    weights = drawn(seed + 1, 5, n).softmax(-1)
    assert len({*corners}) == len(corners)
    if len({tuple(point) for point in points.tolist()}) > 1:
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            (x, y), (u, v) = points[a], points[b]
            inside = torch.cat([points, weights @ points])
            assert ((u - x) * (inside[:, 1] - y) - (v - y) * (inside[:, 0] - x) >= -1e-9).all()


def test_a_piece_begins_at_the_query_with_the_pencil_s_scores():
    q, k = torch.tensor([2.0, 1, 0, 1]), torch.tensor([[-2.0, 0, 2, -2], [1, -2, -1, 2], [2, 3, 3, -2]])
    data = drag_a_query(q, k, k, "label").data
    assert (data["degrees"], data["width"], data["names"]) == (0, 4, ["0", "1", "2"])
    assert [round(data["length"] * x / 2, 6) for x, _ in data["keys"]] == [-3, 1, 2.5]
    assert data["values"] == k.tolist() and data["longest"] >= max(math.hypot(*key) for key in data["keys"])


def test_the_average_has_all_numbers_up_to_four_and_else_those_that_are_drawn():
    for width, shown in ((2, 2), (4, 4), (5, 2)):
        data = drag_a_query(*example(value_width=width), "label").data
        assert {len(value) for value in data["values"]} == {shown} and {len(place) for place in data["places"]} == {2}


@given(seeds)
def test_the_still_figure_says_the_weights_of_the_query_and_of_others(seed):
    query, keys, values = example(seed)
    still = drag_a_query(query, keys, values, "label", list("abcd")).still
    rows = re.findall(r'<th scope="row">([^<]+)</th>(.*?)</tr>', still)
    told = {name: [float(number) for number in re.findall(r"--w:([\d.]+)", cells)] for name, cells in rows}
    for name, times in (("as it is", 1), ("twice as long", 2), ("half as long", 0.5), ("of length 0", 0)):
        expected = attention_weights(times * query[None], keys)[0].tolist()
        assert told[name] == pytest.approx(expected, abs=0.0051)
    across = query_plane(query, keys)[1] * query.norm()
    assert told["turned by 90°"] == pytest.approx(attention_weights(across[None], keys)[0].tolist(), abs=0.0051)


@pytest.mark.parametrize(
    "changes, named",
    [
        (dict(query=torch.ones(5)), r"are \(\(5,\), \(4, 6\), \(4, 3\)\)"),
        (dict(query=torch.ones(1, 6)), r"give \(width,\), \(keys, width\)"),
        (dict(values=torch.ones(3, 3)), r"\(3, 3\)\)"),
        (dict(query=torch.zeros(6)), r"the query is \[0.0, 0.0"),
        (dict(keys=torch.full((4, 6), torch.nan)), "finite numbers throughout"),
        (dict(values=torch.full((4, 3), torch.inf)), "finite numbers throughout"),
        (dict(keys=torch.ones(1, 6), values=torch.ones(1, 3)), "give 2 to 12"),
        (dict(keys=torch.ones(13, 6), values=torch.ones(13, 3)), "give 2 to 12"),
        (dict(values=torch.ones(4, 1)), "of width 2 or more"),
        (dict(query=torch.ones(1), keys=torch.ones(4, 1)), "of width 2 or more"),
        (dict(names=["a", "b"]), r"4 keys have the names \['a', 'b'\]"),
        (dict(names=list("aabc")), "none twice"),
    ],
)
def test_queries_that_cannot_be_shown_are_refused(changes, named):
    given_ = dict(zip(("query", "keys", "values"), example(), strict=True), label="label")
    with pytest.raises(ValueError, match=named):
        drag_a_query(**{**given_, **changes})


@given(seeds, st.integers(1, 8), st.integers(1, 4))
def test_what_reaches_what_is_the_mask_s_boolean_power(seed, n, layers):
    mask = drawn(seed, n, n) < -0.5
    one = np.maximum(mask.int().numpy(), np.eye(n, dtype=int))    # its own token reaches each position
    assert np.array_equal(reachable(mask, layers).numpy(), np.linalg.matrix_power(one, layers) > 0)


@given(seeds)
def test_it_is_what_moves_when_a_token_changes(seed):
    mask, inputs = drawn(seed, 5, 5) < 0, drawn(seed + 1, 1, 5, 8)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [MultiHeadAttention(8, 2).double() for _ in range(3)]

    def through(x, n):
        for layer in layers[:n]:
            x = x + layer(x, *layer.keys_values(x), mask)
        return x[0]

    for n in (1, 2, 3):
        changed = inputs.repeat(5, 1, 1)
        changed[range(5), range(5)] += 1
        moved = [(through(x[None], n) - through(inputs, n)).abs().amax(-1) > 1e-12 for x in changed]
        assert torch.equal(torch.stack(moved, 1), reachable(mask, n))


def test_a_mask_begins_causal_or_as_it_is_given_and_the_still_figure_says_what_leaks():
    assert paint_a_mask(TOKENS, "label").data == {"tokens": TOKENS, "real": 4, "mask": causal_mask(5, 5).tolist()}
    wrong = causal_mask(5, 5)
    wrong[0, 2], wrong[3] = True, False
    piece = paint_a_mask(TOKENS, "label", wrong)
    assert piece.data["mask"] == wrong.tolist()
    cells = [re.findall(r"<td>(.*?)</td>", line) for line in piece.still.split("<tr>")[2:]]
    assert cells[0] == ["0 &lt;s&gt;, 2 OW1", "2 OW1", "1 F, 2 OW1"]
    assert cells[1] == ["0 &lt;s&gt;, 1 F", "none", "2 OW1"] and cells[3] == ["none"] * 3


@pytest.mark.parametrize(
    "tokens, mask, named",
    [
        (["<s>"], None, "give 2 to 8"), (list("abcdefghi"), None, "give 2 to 8"),
        (["<s>", "<pad>"], None, "two of them real"), (["<pad>", "a", "b"], None, "<pad> at the end alone"),
        (["a", "<pad>", "b"], None, "<pad> at the end alone"),
        (["a", "b"], torch.ones(2, 2), r"torch.float32 and \(2, 2\); give booleans, 2 by 2"),
        (["a", "b"], torch.ones(2, 3).bool(), r"\(2, 3\); give booleans"),
    ],
)  # fmt: skip
def test_tokens_and_masks_that_do_not_fit_are_refused(tokens, mask, named):
    with pytest.raises(ValueError, match=named):
        paint_a_mask(tokens, "label", mask)


def test_names_are_text_wherever_they_stand():
    for piece in (drag_a_query(*example(), HOSTILE, [HOSTILE, *"bcd"]), paint_a_mask([HOSTILE, "b"], HOSTILE)):
        assert "<img" not in piece.html and piece.html.count("</script>") == 2
        assert HOSTILE in json.dumps(piece.data, ensure_ascii=False).encode().decode("unicode_escape")
        assert "style=" not in piece.script and len(piece.html) < 60_000
