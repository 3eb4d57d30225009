"""The instrument on the first page, with the model behind it: typed into, changed, cut off from its files."""

import re

import pytest
import torch
from browsing import HTML, Strict, inside, listen, serve, wait_until
from playwright.sync_api import expect

from annotated_decoder.encoder_outputs import END
from annotated_decoder.pronunciation.model import pronounce, pronouncer
from annotated_decoder.teaching.instrument import record_run

PAGE = "book/index.html"
FILES = ["decoder.js", "pronouncer.safetensors"]


@pytest.fixture
def opened(browser, site):
    "A function that opens the first page: its tab, the instrument, what the console complains of, what was asked for."
    contexts = []

    def open_page(site=site, before=lambda tab: None, **settings):
        contexts.append(browser.new_context(**{"reduced_motion": "reduce"} | settings))
        tab, asked = contexts[-1].new_page(), []
        complaints, _ = listen(tab)
        tab.on("request", lambda request: asked.append(request.url.split("?")[0].rpartition("/")[2]))
        before(tab)
        tab.goto(site + PAGE, wait_until="load")
        return tab, tab.locator(".annotated-piece").first, complaints, asked

    yield open_page
    for context in contexts:
        context.close()


def say(root, word):
    root.get_by_label("a word").fill(word)
    root.get_by_label("a word").press("Enter")


def wait_for(tab, root, letters):
    "Until these letters stand there."
    expect(root.locator(".letter")).to_have_text([*letters, "</s>"], timeout=30_000)    # asks no page to run a string


def said(root):
    return root.locator(".tiles .sound").all_inner_texts()


def symbols(run):
    return [pronouncer().target.symbols[step["token"]] for step in run]


def test_nothing_is_loaded_before_the_first_key_and_then_two_files_once(opened):
    tab, root, complaints, asked = opened()
    assert not set(FILES) & set(asked)
    root.get_by_label("a word").press_sequentially("c")
    wait_until(tab, lambda: tab.evaluate("!document.querySelector('.annotated-piece progress')"))
    root.get_by_label("a word").press_sequentially("at")
    say(root, "cat")
    wait_for(tab, root, "cat")
    assert sorted(name for name in asked if name in FILES) == FILES and complaints == []


@pytest.mark.parametrize("typed", ["nebula", "Chatbot", "naïve", "rhythm", "transformer", "q"])
def test_a_typed_word_is_said_as_the_package_says_it(opened, typed):
    tab, root, complaints, _ = opened()
    say(root, typed)
    plain = typed.lower().replace("ï", "i")
    wait_for(tab, root, plain)
    assert said(root) == [*pronounce(plain), "</s>"]
    assert ("“ï” as “i”" in root.get_by_role("alert").inner_text()) == ("ï" in typed)
    p = torch.tensor(record_run(pronouncer(), plain)[-1]["logits"]).softmax(-1)[END]
    assert f"probability {p:.2f}" in root.get_by_role("status").inner_text() and complaints == []


@pytest.mark.parametrize("typed", ["neuropsychopharmacology", "internationalization", "cat"])
def test_an_end_that_the_package_doubts_is_doubted_here_too(opened, typed):
    tab, root, _, _ = opened()
    say(root, typed)
    wait_for(tab, root, typed)
    ((_, (answer,)),) = pronouncer().stream([typed])
    doubted = not answer.finished
    assert doubted == (typed == "neuropsychopharmacology")
    assert root.locator(".sound.doubtful").all_inner_texts() == ["</s>"] * doubted
    assert ("stopped too early" in root.get_by_role("status").inner_text()) == doubted


def test_another_candidate_changes_what_follows_and_can_be_taken_back(opened):
    tab, root, _, _ = opened()
    say(root, "read")
    wait_for(tab, root, "read")
    before = said(root)
    root.locator(".tiles .sound").nth(1).click()
    root.locator(".candidate", has_text="EH1").click()
    tokens = [pronouncer().target.symbols.index(symbol) for symbol in (before[0], "EH1")]
    other = symbols(record_run(pronouncer(), "read", tokens))
    assert "you chose EH1, as in bed" in root.get_by_role("status").inner_text()
    root.get_by_role("button", name="last").click()
    assert said(root) == other != before
    root.get_by_role("button", name="undo").click()
    assert said(root) == before and root.get_by_role("button", name="undo").count() == 0


def test_a_covered_letter_is_not_looked_at_and_may_change_the_word(opened):
    tab, root, _, _ = opened()
    say(root, "knight")
    wait_for(tab, root, "knight")
    before = said(root)
    for letter in (2, 3, 4):
        root.locator(".tiles .letter").nth(letter).click()
        assert tab.evaluate("document.activeElement.textContent") == "knight"[letter]    # the focus stays on it
    root.get_by_text("All steps as a table").click()
    weights = root.locator("tbody tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))")
    assert all(row[2:][letter] == "0.00" for row in weights for letter in (2, 3, 4))
    assert said(root) != before
    root.get_by_role("button", name="undo").click()
    assert said(root) == before


def test_the_last_open_letter_cannot_be_covered(opened):
    tab, root, complaints, _ = opened()
    say(root, "ox")
    wait_for(tab, root, "ox")
    for letter in (0, 1, 2):
        root.locator(".tiles .letter").nth(letter).click()
    pressed = [tile.get_attribute("aria-pressed") for tile in root.locator(".tiles .letter").all()]
    assert pressed == ["true", "true", "false"] and complaints == []
    assert "has to stay open" in root.get_by_role("alert").inner_text()
    root.locator(".tiles .letter").nth(0).click()
    assert root.get_by_role("alert").inner_text() == ""


def test_a_choice_that_was_not_recorded_is_said_by_the_model(opened):
    tab, root, complaints, asked = opened()
    root.locator(".tiles .sound").nth(2).click()
    before, other = said(root), root.locator(".candidate").nth(3).locator(".tile").inner_text()
    root.locator(".candidate").nth(3).click()
    wait_until(tab, lambda: tab.evaluate("document.querySelector('[role=status]').textContent.includes('you chose')"))
    ids = [pronouncer().target.symbols.index(symbol) for symbol in [*before[:2], other]]
    assert said(root) == symbols(record_run(pronouncer(), "nebulizing", ids))    # and what follows stands there
    assert sorted(name for name in asked if name in FILES) == FILES and complaints == []


def test_a_long_word_scrolls_with_its_step(opened):
    tab, root, _, _ = opened(viewport={"width": 390, "height": 900})
    say(root, "internationalization")
    wait_for(tab, root, "internationalization")
    for name in ("first", "last"):
        root.get_by_role("button", name=name).click()
        assert inside(root.locator("[aria-current=step]"), root.locator(".scroll").first)


def test_the_step_that_a_page_begins_with_is_in_sight_on_a_telephone(opened):
    tab, root, _, _ = opened(viewport={"width": 390, "height": 900})
    wait_until(tab, lambda: inside(root.locator("[aria-current=step]").first, root.locator(".scroll").first))


def test_a_temperature_above_zero_draws_and_zero_does_not(opened):
    tab, root, _, _ = opened()
    say(root, "daughter")
    wait_for(tab, root, "daughter")
    root.get_by_text("Pace, arcs and temperature").click()
    plain, heat = said(root), root.get_by_label("temperature")
    heat.press("End")
    drawn = set()
    for _ in range(12):
        say(root, "daughter")
        tab.wait_for_timeout(100)
        drawn.add(tuple(said(root)))
    assert len(drawn) > 3 and "at temperature 2" in root.get_by_role("status").inner_text()
    heat.press("Home")
    wait_until(tab, lambda: said(root) == plain)


REFUSED = {
    "": "Type a word.", "two words": "One word at a time", "r2d2": "letters and no numbers", "x+y": "never seen “+”",
    "слово": "never seen “с”", "a" * 60: "60 letters; the model reads at most 47",
}  # fmt: skip


def test_what_cannot_be_said_is_answered_beside_the_box_and_the_last_word_stays(opened):
    tab, root, complaints, _ = opened()
    say(root, "cat")
    wait_for(tab, root, "cat")
    before = said(root)
    for word, sentence in REFUSED.items():
        say(root, word)
        tab.wait_for_timeout(50)
        assert sentence in root.get_by_role("alert").inner_text() and said(root) == before, word
        assert "“cat”" in root.get_by_role("alert").inner_text() and root.locator(".scene[data-old]").count() == 1
    say(root, "dog")
    wait_for(tab, root, "dog")
    assert root.get_by_role("alert").inner_text() == "" and root.locator("[data-old]").count() == 0 and complaints == []


def test_the_words_to_choose_from_and_the_box_agree_on_which_is_said(opened):
    tab, root, _, _ = opened()
    pressed = root.locator(".words [aria-pressed=true]")
    assert pressed.all_inner_texts() == ["nebulizing"]
    say(root, "cat")
    wait_for(tab, root, "cat")
    assert pressed.count() == 0
    root.locator(".words").get_by_text("knight").click()
    wait_for(tab, root, "knight")
    assert pressed.all_inner_texts() == ["knight"] and root.get_by_label("a word").input_value() == ""


def test_an_edge_fades_where_more_is_behind_it(opened):
    tab, root, _, _ = opened(viewport={"width": 390, "height": 900})
    say(root, "internationalization")
    wait_for(tab, root, "internationalization")
    box = root.locator(".scroll").first
    edges = "box => ['left', 'right'].map(side => parseFloat(box.style.getPropertyValue(`--${side}`)) > 0)"
    for name, fades in {"first": [False, True], "last": [True, False]}.items():
        root.get_by_role("button", name=name).click()
        box.evaluate("(box, name) => { box.scrollLeft = name === 'first' ? 0 : box.scrollWidth; }", name)
        wait_until(tab, lambda fades=fades: box.evaluate(edges) == fades)


def test_a_new_word_cancels_one_that_waits_for_the_model(opened):
    release = []

    def hold(tab):
        tab.route("**/pronouncer.safetensors", lambda route: release.append(route))

    tab, root, _, _ = opened(before=hold)
    for word in ("first", "second"):
        say(root, word)
    while not release:
        tab.wait_for_timeout(20)
    release[0].continue_()
    wait_for(tab, root, "second")
    tab.wait_for_timeout(300)
    assert said(root) == [*pronounce("second"), "</s>"]


def test_a_new_word_cancels_one_that_is_being_played(opened):
    tab, root, _, _ = opened(reduced_motion="no-preference")
    say(root, "electricity")
    wait_for(tab, root, "electricity")
    say(root, "cat")
    wait_for(tab, root, "cat")
    tab.wait_for_timeout(4 * 900)
    assert said(root) == ["K", "AE1", "T", "</s>"] and root.get_by_role("button", name="play").count() == 1


def test_it_plays_by_itself_only_where_motion_is_welcome(opened):
    _, root, _, _ = opened()
    shown = said(root)
    assert len(shown) == len(set(enumerate(shown))) > 5 and "·" not in shown
    tab, root, _, _ = opened(reduced_motion="no-preference")
    assert "·" in said(root)
    root.get_by_role("button", name="pause").click()
    stopped = said(root)
    tab.wait_for_timeout(1200)
    assert said(root) == stopped


def test_without_its_files_a_sentence_says_so_and_the_recorded_words_play(opened):
    tab, root, _, _ = opened(before=lambda tab: tab.route("**/pronouncer.safetensors", lambda r: r.fulfill(status=404)))
    say(root, "cat")
    alert = root.get_by_role("alert")
    wait_until(tab, lambda: tab.evaluate("document.querySelector('[role=alert]').textContent"))
    assert "could not be loaded (the server answers 404)" in alert.inner_text()
    root.get_by_role("button", name="read", exact=True).click()
    assert said(root)[0] == "R"
    tab.unroute("**/pronouncer.safetensors")
    say(root, "cat")    # and the next try asks again
    wait_for(tab, root, "cat")


def test_a_page_opened_from_the_disk_plays_the_recorded_words(opened):
    tab, root, complaints, asked = opened(site=HTML.as_uri() + "/")
    assert root.get_by_label("a word").count() == 0 and not set(FILES) & set(asked)
    root.get_by_role("button", name="read", exact=True).click()
    root.get_by_role("button", name="first").click()
    root.get_by_role("button", name="next").click()
    root.locator(".candidate", has_text="EH1").click()
    assert "you chose EH1" in root.get_by_role("status").inner_text()
    assert [text for text in complaints if "instrument" in text or "exception" in text] == []


def test_it_works_where_a_page_may_run_nothing_but_its_own_files(opened):
    with serve(HTML, Strict) as address:
        tab, root, complaints, _ = opened(site=address)
        say(root, "nebula")
        wait_for(tab, root, "nebula")
    assert said(root) == [*pronounce("nebula"), "</s>"]
    bars = root.locator(".level").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundSize)")
    assert len({re.match(r"[\d.]+%|[\d.]+px", bar)[0] for bar in bars}) > 1, bars
    assert [text for text in complaints if "instrument" in text or "decoder" in text] == []
