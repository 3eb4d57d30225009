"""The distribution to move is what the package's filters make of it, and the dragged logits are torch's.

Each piece is on a page of its own.
"""

import json
import math
import random

import pytest
import torch
import torch.nn.functional as F
from browsing import listen

from annotated_decoder.softmax import softmax
from annotated_decoder.strategies import top_k, top_p
from annotated_decoder.teaching.distribution import distribution, draggable_logits, recorded_steps

HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1"> <!-- & \' "'
RANDOM = random.Random(0)
SYMBOLS = [f"t{i}" for i in range(72)]
UNEVEN = [round(RANDOM.gauss(0, 2), 3) for _ in SYMBOLS]
TIED = [float(i % 4) for i in range(72)]    # eighteen of each


@pytest.fixture
def alone(browser):
    "A function that shows a piece on a page of its own: its element, and what the console complains of."
    contexts = []

    def show(piece):
        contexts.append(browser.new_context())
        tab = contexts[-1].new_page()
        complaints, _ = listen(tab)
        tab.set_content(f'<!doctype html><html lang="en"><meta charset="utf-8"><body>{piece.html}</body></html>')
        return tab.locator(".annotated-piece"), complaints

    yield show
    for context in contexts:
        context.close()


def number(text):
    return float(text.replace("−", "-").replace("<", ""))


def drag(bars, *values):
    "What a mouse does to these sliders, at once."
    bars.evaluate_all("""(bars, values) => bars.forEach((bar, i) => {
      bar.value = values[i]; bar.dispatchEvent(new Event("input")); })""", list(map(str, values)))


def expected(logits, temperature, k, p):
    "As `sampler` orders it: the filtered logits of one row, in float64, and their probabilities."
    row = torch.tensor([logits], dtype=torch.float64)
    filtered = top_p(top_k((row - row.max()) / temperature, k), p)
    return filtered[0], softmax(filtered)[0]


def rows_of(root):
    "Each row of the table: its name, its number, what the filters did, and the bars that it has."
    return root.locator("tbody tr").evaluate_all("""rows => rows.map(row => [
      ...[...row.querySelectorAll("th, td:not(.bars)")].map(cell => cell.textContent),
      [...row.querySelectorAll(".track span")].map(bar => bar.className).join(" "),
      getComputedStyle(row.querySelector("th")).textDecorationLine])""")


def settings():
    "Many of them, from a seed, the ends too; none at which a cumulative sum is a rounding away from p."
    draw = random.Random(1)
    ends = [(t, k, p) for t in (0.1, 1.0, 2.0) for k in (1, 72) for p in (0.05, 1.0)]
    some = [(draw.randrange(2, 41) * 0.05, draw.choice([1, 2, 3, 5, 8, 12, 18, 36, 72]), draw.randrange(5, 101) / 100)
            for _ in range(50)]    # fmt: skip
    return [(round(t, 2), k, p) for t, k, p in ends + some]


@pytest.mark.parametrize("shown", [72, 12])
@pytest.mark.parametrize("name", ["uneven", "tied", "real"])
def test_the_kept_tokens_and_their_probabilities_are_the_packages(alone, trained, shown, name):
    [real] = recorded_steps(trained, {"minute": 1}).values()
    made = distribution({"uneven": UNEVEN, "tied": TIED, "real": real}, SYMBOLS, "A step", shown)
    logits = dict(uneven=UNEVEN, tied=TIED, real=[round(z, 3) for z in real])[name]    # as the page has them
    root, complaints = alone(made)
    root.get_by_role("combobox").select_option(name)
    order = torch.tensor(logits).argsort(descending=True, stable=True).tolist()
    stops = [k for k in range(1, 73) if k <= shown or k % 6 == 0]
    for temperature, k, p in settings():
        drag(root.get_by_role("slider"), temperature, stops.index(k), p)
        filtered, shares = expected(logits, temperature, k, p)
        few = top_k(torch.tensor([logits], dtype=torch.float64), k)[0].isfinite().tolist()
        kept, found = filtered.isfinite().tolist(), rows_of(root)
        for i, (symbol, share, how, bars, line) in zip(order[:shown], found[:shown], strict=True):
            at = (symbol, temperature, k, p)
            assert symbol == SYMBOLS[i] and abs(number(share) - shares[i]) < 0.00101, at
            assert how == ("kept" if kept[i] else "cut: top-p" if few[i] else "cut: top-k"), at
            assert bars == ("now own" if kept[i] else "was own"), at
            assert (line == "none") == kept[i], at    # what is cut is struck out
        others = order[shown:]
        if others:
            [(symbol, share, how, bars, _)] = found[shown:]
            some, together = sum(kept[i] for i in others), sum(shares[i] for i in others)
            assert (symbol, how) == (f"{len(others)} more", f"{some} kept")
            assert abs(number(share) - together) < 0.00101
            assert bars.split() == ["now"] * (some > 0) + ["was"] * (some < len(others)) + ["own"]
        said, bits = root.get_by_role("status").inner_text(), torch.special.entr(shares).sum() / math.log(2)
        assert f" {sum(kept)} of 72 tokens {'are' if sum(kept) > 1 else 'is'} left. {SYMBOLS[order[0]]}, " in said
        assert abs(float(said.split("probability ")[1].split(",")[0]) - shares.max()) < 0.00051
        assert abs(float(said.split("entropy is ")[1].split(" ")[0]) - bits) < 0.0051
    assert complaints == []


def test_the_bars_are_as_long_as_their_numbers_and_the_mark_stays_where_the_model_is(alone):
    halves = torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625]).log().tolist()
    root, _ = alone(distribution({"halves": halves}, list("abcde"), "Halves", shown=3))
    drag(root.get_by_role("slider"), 1, 1, 1)    # two are left
    found = root.locator("tbody tr").evaluate_all("""rows => rows.map(row => {
      const track = row.querySelector(".track").getBoundingClientRect();
      return [...row.querySelectorAll(".track span")].map(bar => {
        const box = bar.getBoundingClientRect();
        return [bar.className, box.left - track.left, box.width].map(x => typeof x === "string" ? x : x / track.width);
      });
    })""")
    bars = {f"{i} {kind}": (left, width) for i, row in enumerate(found) for kind, left, width in row}
    widths = {name: width for name, (_, width) in bars.items() if "own" not in name}
    assert widths == pytest.approx({"0 now": 2 / 3, "1 now": 1 / 3, "2 was": 1 / 8, "3 was": 1 / 8}, abs=0.01)
    marks = [bars[f"{i} own"][0] for i in range(4)]
    assert marks == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 8], abs=0.01)


def test_one_button_brings_the_models_own_back(alone):
    root, _ = alone(distribution({"uneven": UNEVEN}, SYMBOLS, "A step"))
    before = root.locator(".stage").inner_text()
    drag(root.get_by_role("slider"), 0.5, 3, 0.5)
    assert root.locator(".stage").inner_text() != before
    root.get_by_role("button", name="back to the model's own").click()
    assert root.locator(".stage").inner_text() == before


def test_a_draw_goes_by_what_the_filters_have_left(alone):
    root, _ = alone(distribution({"a step": [math.log(p) for p in (1 / 2, 1 / 4, 1 / 6, 1 / 12)]}, "abcd", "A step"))
    root.page.evaluate("let n = 0; Math.random = () => (n++ % 12 + 0.5) / 12")    # evenly
    draw, drawn = root.get_by_role("button", name="draw twelve"), root.locator(".drawn")
    for p, counts in ((1.0, [6, 3, 2, 1]), (0.7, [8, 4]), (0.3, [12])):
        root.get_by_label("top-p").fill(str(p))
        assert drawn.inner_text() == ""
        draw.click()
        told = ", ".join(f"{symbol} {n}" for symbol, n in zip("abcd", counts))
        assert drawn.inner_text() == f"Twelve draws: {told}."


def of_torch(z, target):
    "What torch says of these logits: probabilities, loss, and the gradient by autograd."
    leaf = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    loss = F.cross_entropy(leaf, torch.tensor(target))
    (gradient,) = torch.autograd.grad(loss, leaf)
    return leaf.detach().softmax(-1).tolist(), loss.item(), gradient.tolist()


def told(root):
    "The numbers of each line, and of the status: p, loss, how far the target rises, the loss after that."
    lines = root.locator(".line:not(.head)").evaluate_all("""lines => lines.map(line =>
      [".control .value", ".share .value", ".push .value"].map(place => line.querySelector(place).textContent))""")
    said = root.get_by_role("status").inner_text()
    assert said.count(". ") == 1 and said.endswith(".")    # two sentences
    places = ("p = ", "−ln p is ", "its logit by ", "a loss of ")
    return [[number(text) for text in line] for line in lines], [
        number(said.split(place)[1].split(" ")[0].rstrip(".,")) for place in places
    ]


def check(root, z, target, rate):
    "Every number that is shown is torch's; the logits after one step."
    p, loss, gradient = of_torch(z, target)
    after = [max(-6.0, min(6.0, x - rate * g)) for x, g in zip(z, gradient, strict=True)]
    lines, said = told(root)
    assert [line[0] for line in lines] == pytest.approx(z, abs=0.0051)
    assert [line[1] for line in lines] == pytest.approx(p, abs=1e-3)
    assert [line[2] for line in lines] == pytest.approx(gradient, abs=1e-3)
    assert said == pytest.approx([p[target], loss, after[target] - z[target], of_torch(after, target)[1]], abs=1e-3)
    return after


TOKENS = ["<pad>", "<s>", "</s>", "a", "b"]


def test_dragged_logits_and_steps_downhill_are_torchs(alone):
    z, draw = [0.2148, 0.9517, -2.9772, 2.7624, 2.0255], random.Random(2)
    root, complaints = alone(draggable_logits(TOKENS, z, "Drag", "b", rate=0.5))
    rate, target = 0.5, 4
    for turn in range(25):
        z = check(root, z, target, rate)
        root.get_by_role("button", name="one step downhill").click()
        check(root, z, target, rate)
        moved = draw.randrange(5)
        z = [*z[:moved], draw.randrange(-60, 61) / 10, *z[moved + 1 :]]
        drag(root.locator(".line input").nth(moved), z[moved])
        check(root, z, target, rate)
        if turn % 5 == 4:
            target, rate = draw.randrange(5), draw.randrange(1, 21) / 10
            root.get_by_role("combobox").select_option(index=target)
            drag(root.get_by_role("slider", name="learning rate"), rate)
    root.get_by_role("button", name="as at first").click()
    check(root, [0.2148, 0.9517, -2.9772, 2.7624, 2.0255], target, rate)
    assert complaints == []


def test_the_bars_stand_on_both_sides_of_their_line(alone):
    root, _ = alone(draggable_logits(TOKENS, [0.0, 1.0, -3.0, 3.0, 2.0], "Drag", "b"))
    _, _, gradient = of_torch([0.0, 1.0, -3.0, 3.0, 2.0], 4)
    found = root.locator(".push .track").evaluate_all("""tracks => tracks.map(track => {
      const line = track.getBoundingClientRect(), bar = track.querySelector(".bar").getBoundingClientRect();
      const zero = line.left + line.width / 2, half = line.width / 2;
      return [(bar.left - zero) / half, (bar.right - zero) / half];
    })""")
    for (left, right), g in zip(found, gradient, strict=True):
        assert (left, right) == pytest.approx((min(g, 0), max(g, 0)), abs=0.03)
    names = root.locator(".line .control").evaluate_all("all => all.map(label => label.innerText.split(/\\s+/)[1])")
    assert names == ["0.00", "1.00", "−3.00", "3.00", "target"]


def test_an_arrow_key_moves_a_logit_by_a_tenth_and_says_what_follows(alone):
    root, _ = alone(draggable_logits(TOKENS, [0.0, 1.0, -3.0, 3.0, 2.0], "Drag", "b"))
    bar = root.get_by_role("slider", name="</s>")
    bar.press("ArrowRight")
    p, _, gradient = of_torch([0.0, 1.0, -2.9, 3.0, 2.0], 4)
    assert bar.get_attribute("aria-valuetext") == f"−2.90, p {p[2]:.3f}, p − y {gradient[2]:.3f}"


@pytest.mark.parametrize("piece", [
    distribution({HOSTILE: [1.0, 0.0, 2.0]}, [HOSTILE, "b", "c"], HOSTILE),
    draggable_logits([HOSTILE, "b"], [1.0, 0.0], HOSTILE, HOSTILE),
])    # fmt: skip
def test_hostile_labels_are_text(alone, piece):
    root, complaints = alone(piece)
    assert root.locator("img").count() == 0 and root.evaluate("() => window.broken ?? null") is None
    assert HOSTILE in root.locator(".stage").text_content() and complaints == []
    assert json.loads(root.locator('script[type="application/json"]').text_content())
