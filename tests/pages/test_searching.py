"""The tree, the two decodes and the scrubber say and draw what the package computes, at every place of every slider."""

import re

import pytest
import torch
from browsing import inside, listen, wait_until
from speller import WORDS, examples_of, small_pronouncer

from annotated_decoder.caching import Cache
from annotated_decoder.strategies import beam_search
from annotated_decoder.teaching.searching import (
    PENALTIES,
    Moments,
    beam_tree,
    cache_race,
    count_decode,
    scrub,
)
from annotated_decoder.training import TrainingConfig, train


@pytest.fixture
def opened(browser):
    "A function that shows a piece alone: its element. The console complains of nothing."
    contexts, heard = [], []

    def show(piece, width=1000):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}))
        tab = contexts[-1].new_page()
        heard.append(listen(tab)[0])
        tab.set_content(f'<meta name="viewport" content="width=device-width">{piece.html}')
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        return tab.locator(".annotated-piece")

    yield show
    for context in contexts:
        context.close()
    assert heard == [[]] * len(heard)


def slide(root, name, value):
    root.get_by_role("slider", name=name, exact=True).fill(str(value))


def said(root):
    return root.get_by_role("status").inner_text()


def plain(number):
    return float(number.replace("−", "-"))


@pytest.fixture(scope="module")
def trained():
    made = small_pronouncer(seed=2, tied=False)
    train(made.model, examples_of(made), TrainingConfig(epochs=12, peak_lr=5e-3), progress=False)
    return made


def test_the_trees_winner_is_beam_searchs_for_every_width_and_penalty(opened, trained):
    root = opened(beam_tree(trained, ["dead", "cab"], "A tree"))
    symbols, winners = trained.target.symbols, set()
    for at, word in enumerate(("dead", "cab")):
        root.get_by_label("word").select_option(index=at)
        source = torch.tensor([trained.example(word).source])
        for width in (1, 2, 3, 4):
            slide(root, "width", width)
            for i, penalty in enumerate(PENALTIES):
                slide(root, "length penalty", i)
                root.get_by_role("button", name="last").click(force=True)
                [found] = beam_search(trained.model, source, width=width, length_penalty=penalty)
                winner = " ".join(symbols[token] for token in found[0].tokens)
                tell = re.search(r"The winner is (.*), (?:score|log-probability) (−?\d+\.\d+)", said(root))
                assert tell[1] == winner and abs(plain(tell[2]) - found[0].score) < 0.0051
                winners.add((word, winner))
                last = root.locator(".turn").last
                assert last.locator("li.kept").count() == width
                sums = [plain(text) for text in last.locator("li.kept .sum").all_inner_texts()]
                assert sums == pytest.approx([h.log_probability for h in found], abs=0.0051)
                assert root.locator("li.lit b").all_inner_texts()[-1] == symbols[found[0].tokens[-1]]
    assert len(winners) > 2    # a search and a penalty that change nothing would show nothing


def test_what_is_dropped_is_dashed_and_said_and_each_column_is_in_order(opened, trained):
    root = opened(beam_tree(trained, ["dead"], "A tree"))
    for width in (1, 4):
        slide(root, "width", width)
        for step in (1, 2):
            slide(root, "step", step)
            assert root.locator(".turn").count() == step + 1
            last = root.locator(".turn").last
            words = [text.replace("winner", "kept") for text in last.locator("li small").all_inner_texts()]
            assert words[:width] == ["kept"] * width and {*words[width:]} == {"dropped"} and len(words) > width
            styles = last.locator("li").evaluate_all("all => all.map(e => getComputedStyle(e).borderStyle)")
            assert styles == ["solid"] * width + ["dashed"] * (len(words) - width)
            sums = [plain(text) for text in last.locator(".sum").all_inner_texts()]
            assert sums == sorted(sums, reverse=True)
            lines = root.locator(".tree svg").last.locator("path")
            assert lines.count() == len(words) and root.locator("path.leads").count() == step
            assert root.locator("li.lit").count() == step + 1    # from the start on
            boxes = [each.bounding_box() for each in last.locator("li").all()]
            middles = [box["y"] + box["height"] / 2 for box in boxes]
            ends = lines.evaluate_all("""all => all.map(e => {
              const end = e.getPointAtLength(e.getTotalLength());
              return new DOMPoint(end.x, end.y).matrixTransform(e.getScreenCTM()).y;
            })""")
            assert ends == pytest.approx(middles, abs=2)    # each line leads to its candidate
    assert root.get_by_role("status").inner_text().startswith("Width 4, length penalty 0.0, step 2: of ")


def test_the_status_counts_the_candidates(opened, trained):
    root = opened(beam_tree(trained, ["dead"], "A tree"))
    slide(root, "width", 3)
    vocabulary, before, seen = len(trained.target), ["<s>"], 0
    for step in range(1, int(root.get_by_role("slider", name="step").get_attribute("max")) + 1):
        slide(root, "step", step)
        if root.locator(".turn").count() == step + 1:    # not after the end
            ended = before.count("</s>")
            assert f"of {(len(before) - ended) * vocabulary + ended} candidates 3 stay" in said(root)
            before, seen = root.locator(".turn").last.locator("li.kept b").all_inner_texts(), seen + ended
        else:
            assert "The search ended at step" in said(root)
    assert seen


def test_both_decodes_are_drawn_and_counted_as_they_were(opened, trained):
    words = ["dead", "cab"]
    root = opened(cache_race(trained, words, "A race"))
    for at, word in enumerate(words):
        root.get_by_label("word").select_option(index=at)
        naive, cached = count_decode(trained, word), count_decode(trained, word, Cache())
        source, sides = len(trained.example(word).source), root.locator("section").all()
        sums = [[0, 0], [0, 0]]
        for t in range(len(naive)):
            slide(root, "step", t + 1)
            for place, steps in enumerate((cached, naive)):
                sums[place] = [sums[place][0] + steps[t]["vectors"], sums[place][1] + steps[t]["products"]]
            told = [[f"{sums[way][row]:,}" for way in (0, 1)] for row in (0, 1)] + [[f"{cached[t]['bytes']:,}", "0"]]
            rows = [row.locator("td").all_inner_texts() for row in root.locator(".sums tbody tr").all()]
            assert [[text.strip() for text in row] for row in rows] == told
            later = 2 * (len(naive) - t - 1)
            for side, made, kept in ((sides[0], 2 + 2 * source * (t == 0), 2 * t + 2 * source * (t > 0)),
                                     (sides[1], 2 * (t + 1) + 2 * source, 0)):    # fmt: skip
                cells = [side.locator(f"td.{state}").count() for state in ("made", "kept", "later")]
                assert cells == [made, kept, later]
            for number in (*told[0], *told[1], told[2][0]):
                assert number in said(root)
            assert f"Step {t + 1} of {len(naive)} reads {trained.target.symbols[naive[t]['read']]}:" in said(root)


def test_the_newest_key_of_a_long_word_is_in_sight_on_a_telephone(opened):
    long = small_pronouncer(tied=False, max_len=40)
    with torch.no_grad():
        long.model.projection.bias[2] = -99    # it does not end
    root = opened(cache_race(long, ["dead"], "A race"), width=390)
    for name in ("last", "first"):
        root.get_by_role("button", name=name).click()
        for section in root.locator("section").all():
            box = section.locator(".scroll").first
            assert inside(box.locator("tbody tr").first.locator("td:not(.later)").last, box)
            assert section.locator(".rows").first.inner_text().split() == ["key", "value"]
            assert inside(section.locator(".rows").first, section)


def test_the_newest_step_of_the_tree_is_in_sight_on_a_telephone_from_the_beginning(opened, trained):
    root = opened(beam_tree(trained, ["dead", "cab"], "A tree"), width=390)
    wait_until(root.page, lambda: inside(root.locator(".turn").last, root.locator(".scroll").last))


def test_the_scrubber_shows_each_moment(opened):
    watched = small_pronouncer(tied=False)
    words = [*WORDS][:3]
    moments = Moments(watched, words, range(0, 40, 8))
    losses = train(watched.model, examples_of(watched), TrainingConfig(epochs=40, peak_lr=1e-2), False, moments)
    moments.look(len(losses))
    listed = {word: [WORDS[word].split()] for word in words}
    root = opened(scrub(moments, losses, listed, "A training"))
    symbols, right, marks = watched.target.symbols, [], []
    for n, taken in enumerate(moments.taken):
        slide(root, "moment", n + 1)
        rows = root.locator(".said tr").all()
        shown = [row.locator("td").all_inner_texts() for row in rows]
        assert [said for said, _ in shown] == [text or "(no phoneme)" for text in taken["said"]]
        fits = [text == WORDS[word] for text, word in zip(taken["said"], words)]
        told = ["as listed" if fit else f"listed: {WORDS[word]}" for word, fit in zip(words, fits)]
        assert [each for _, each in shown] == told
        right.append(sum(fits))
        for bar in root.locator(".bar").all():
            token, share = bar.inner_text().split()
            assert abs(float(share) - taken["shares"][symbols.index(token)]) < 0.0051
        best = max(range(len(symbols)), key=taken["shares"].__getitem__)
        assert f"After {taken['step']} of {len(losses)} steps the loss is about " in said(root)
        assert f", and {sum(fits)} of 3 words" in said(root)
        assert said(root).endswith(f"the first token of {words[0]}: {symbols[best]}, {taken['shares'][best]:.2f}.")
        near = losses[min(taken["step"], len(losses) - 1)]
        assert abs(float(re.search(r"about ([\d.]+),", said(root))[1]) - near) < 0.06
        marks.append(root.locator("circle").bounding_box())
    assert right[0] == 0 and right[-1] == 3
    places = [mark["x"] for mark in marks]
    assert places == sorted(places) and len({*places}) == len(places) and marks[0]["y"] < marks[-1]["y"]
