"""Every interactive piece on the built pages, there and alone: clicked, keyed, listened to, without script, on a phone.

Alone is as in Colab, whose frame of an output has nothing of the book around it.
"""

import html
import json
import re

import pytest
import torch
from browsing import HTML, PAGES, RULES, listen, turn, violations

from annotated_decoder.teaching.attention_steps import AttentionRecord, attention_steps
from annotated_decoder.teaching.interactive import Piece

FIGURE = re.compile(r'<figure class="annotated-piece".*?</figure>', re.DOTALL)


def whole(figure):
    "A piece with its style and its script in it, where they are files of the book."
    text = lambda address: (HTML / "_static" / address.rpartition("/")[2]).read_text(encoding="utf-8")    # noqa: E731
    figure = re.sub(r'<link rel="stylesheet" href="(.*?)">', lambda m: f"<style>{text(m[1])}</style>", figure)
    return re.sub(r'<script src="(.*?)"></script>', lambda m: f"<script>{text(m[1])}</script>", figure)


FOUND = {
    page: [whole(figure) for figure in FIGURE.findall((HTML / page).read_text(encoding="utf-8"))] for page in PAGES
}
PIECES = [(page, i) for page, figures in FOUND.items() for i in range(len(figures))]
STEPS = [(page, i) for page, i in PIECES if '"words":[{"name"' in FOUND[page][i] and '"weights":[[' in FOUND[page][i]]
DARK = "<style>html { background: #383838; color: #e3e3e3 }</style>"    # as in Colab
MOVING = """root => [...root.querySelectorAll("*")].filter(e => {
  const style = getComputedStyle(e);
  return style.transitionDuration.split(", ").some(d => d !== "0s") || style.animationName !== "none";
}).map(e => e.outerHTML.slice(0, 100))"""


def alone(*figures, head=""):
    viewport = '<meta name="viewport" content="width=device-width">'
    start = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{viewport}{head}<title>a piece</title></head>'
    return f"{start}<body>{''.join(figures)}</body></html>"


@pytest.fixture
def new_tab(browser):
    "A function that opens a tab."
    contexts = []

    def open_tab(width=1280, **settings):
        still = {"reduced_motion": "reduce"}                                       # or a piece may begin to play
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **still | settings))
        return contexts[-1].new_page()

    yield open_tab
    for context in contexts:
        context.close()


@pytest.fixture
def shown(new_tab, site):
    "A function that shows one piece in the book or alone: its tab, its element, and what the console complains of."

    def show(where, page, i, head="", **settings):
        tab = new_tab(**settings)
        complaints, _ = listen(tab)
        if where == "book":
            tab.goto(site + page)
        else:
            tab.set_content(alone(FOUND[page][i], head=head))
        return tab, tab.locator(".annotated-piece").nth(i if where == "book" else 0), complaints

    return show


def each_choice(root):
    "The piece as it begins, then with each of its boxes ticked, then with the last option of each list chosen too."
    yield
    for box in root.get_by_role("checkbox").all():
        box.check()
        yield
        box.uncheck()
    for select in root.get_by_role("combobox").all():
        select.select_option(index=select.locator("option").count() - 1)
        yield


def seen(root):
    "What the status line says, and the rest of what the piece shows."
    return root.get_by_role("status").inner_text(), root.locator(".stage").inner_text()


def move(tab, slider):
    "To its other end, by a key."
    slider.focus()
    tab.keyboard.press("Home" if slider.input_value() == slider.get_attribute("max") else "End")


def test_there_are_pieces():
    assert len(PIECES) >= 2 and STEPS


@pytest.mark.parametrize("where", ["book", "alone"])
@pytest.mark.parametrize("page, i", PIECES)
def test_the_script_takes_the_still_figures_place_and_the_keyboard_moves_it(shown, where, page, i):
    tab, root, complaints = shown(where, page, i)
    assert root.locator(".still").count() == 0 and root.locator(".stage").count() == 1
    root.locator("details").evaluate_all("all => all.forEach(fold => { fold.open = true; })")
    controls = root.locator("button, input, select")
    labels = controls.evaluate_all("all => all.map(e => (e.matches('button') ? e : e.labels[0])?.innerText.trim())")
    assert labels and all(labels), labels    # visible ones
    controls.evaluate_all("all => all.forEach(e => e.addEventListener('focus', () => e.dataset.reached = 1))")
    root.evaluate("root => { root.tabIndex = -1; root.focus(); }")
    for _ in [*labels, *root.locator("summary, [tabindex]").all()]:
        tab.keyboard.press("Tab")
    assert root.locator(":is(button, input, select):not([data-reached])").count() == 0

    for slider in root.get_by_role("slider").all():
        slider.focus()
        said = []
        for key in ("End", "ArrowLeft", "Home", "ArrowRight", "End"):
            tab.keyboard.press(key)
            said.append((seen(root), slider.input_value(), slider.get_attribute("aria-valuetext")))
        values = [value for _, value, _ in said]
        assert (values[0], values[2]) == (slider.get_attribute("max"), slider.get_attribute("min"))
        assert values[1] != values[0] == values[4] and values[3] != values[2]
        assert said[0][0][0] != said[2][0][0], "the status says the same at both ends"
        assert said[0] == said[4] and all(spoken for _, _, spoken in said)
    for select in root.get_by_role("combobox").all():
        select.focus()
        before = seen(root)
        tab.keyboard.press("End")
        assert seen(root) != before
        tab.keyboard.press("Home")
        assert seen(root) == before or root.get_by_role("slider").count()
    buttons = root.get_by_role("button")
    for n in range(buttons.count()):
        if n < buttons.count():                                                    # one may take another away
            buttons.nth(n).click(force=True)                                       # one that is at its end, too
    assert root.get_by_role("status").get_attribute("aria-live") == "polite"
    assert complaints == []


@pytest.mark.parametrize("where", ["book", "alone"])
@pytest.mark.parametrize("page, i", PIECES)
def test_without_a_script_the_still_figure_stands(shown, where, page, i):
    _, root, _ = shown(where, page, i, java_script_enabled=False)
    assert root.locator(".still").is_visible() and len(root.locator(".still").inner_text().split()) > 10
    assert root.locator(".stage, button, input, select").count() == 0


LOOKS = {"light": {}, "dark": dict(head=DARK), "phone": dict(width=390)}    # alone
SMALL = """all => all.filter(e => {
  const { width, height } = e.getBoundingClientRect();
  return Math.min(width, height) < 24;
}).map(e => e.outerHTML)"""
ALL_ELSE_AWAY = """piece => {    // a page is looked at in test_pages.py; here it is but the frame, with its styles
  for (let one = piece; one !== document.body; one = one.parentElement)
    for (const other of [...one.parentElement.children]) if (other !== one) other.remove();
}"""


def look_at(tab, root, width, rules=RULES):
    "In each of its states: accessible, no wider than the page, large enough for a finger, and still."
    for _ in each_choice(root):
        found = violations(tab, f'.annotated-piece[data-piece="{root.get_attribute("data-piece")}"]', rules)
        assert found == [], "\n".join(found)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert root.locator("button, input, select").evaluate_all(SMALL) == []
        assert root.evaluate(MOVING) == [], "it glides where motion is unwanted"


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("page, i", PIECES)
def test_alone_every_view_is_accessible_and_no_wider_than_the_page(shown, look, page, i):
    tab, root, _ = shown("alone", page, i, **LOOKS[look])
    look_at(tab, root, LOOKS[look].get("width", 1280))


@pytest.mark.parametrize("page, i", PIECES)
def test_in_the_book_every_view_is_accessible_and_no_wider_than_the_page(shown, page, i):
    tab, root, _ = shown("book", page, i)
    root.evaluate(ALL_ELSE_AWAY)
    root = tab.locator(".annotated-piece")
    look_at(tab, root, 1280)
    turn(tab, "dark")
    look_at(tab, root, 1280, ["color-contrast"])
    turn(tab, "light")
    tab.set_viewport_size({"width": 390, "height": 900})
    look_at(tab, root, 390, ["target-size", "scrollable-region-focusable"])


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("page, i", PIECES)
def test_the_still_figure_is_accessible_and_no_wider_than_the_page(new_tab, look, page, i):
    settings = dict(LOOKS[look])
    figure = re.sub(r"<script>.*?</script>", "", FOUND[page][i], flags=re.DOTALL)    # axe itself needs scripts
    document = alone(figure, head=settings.pop("head", ""))
    tab = new_tab(**settings)
    tab.set_content(document)
    assert tab.locator(".still").is_visible() and violations(tab, ".annotated-piece") == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= settings.get("width", 1280)


def test_pieces_on_one_page_do_not_disturb_each_other_and_leak_no_name(new_tab):
    tab = new_tab()
    complaints, _ = listen(tab)
    figures = [FOUND[page][i] for page, i in PIECES]
    tab.set_content(alone())
    names = set(tab.evaluate("Object.getOwnPropertyNames(window)"))
    tab.set_content(alone(*figures, figures[0]))    # one of them twice
    assert set(tab.evaluate("Object.getOwnPropertyNames(window)")) == names
    roots = tab.locator(".annotated-piece").all()
    assert tab.locator("[data-live]").count() == len(roots) == len(figures) + 1
    for root in roots:
        others = [seen(other) for other in roots if other != root]
        before = seen(root)
        move(tab, root.get_by_role("slider").first)
        assert seen(root) != before
        assert [seen(other) for other in roots if other != root] == others
    assert complaints == []


def largest(row):
    return max(range(len(row)), key=row.__getitem__)


@pytest.mark.parametrize("page, i", STEPS)
def test_attention_steps_say_and_light_the_largest_weight(shown, page, i):
    tab, root, complaints = shown("alone", page, i)
    data = json.loads(root.locator('script[type="application/json"]').text_content())
    for at, word in enumerate(data["words"]):
        root.get_by_label("word").select_option(index=at)
        layers, source, target = word["weights"], word["source"], word["target"]
        for step in range(len(target)):
            root.get_by_label("rows").select_option(index=0)
            said, chosen = root.get_by_role("status").inner_text(), target[step]
            before = " ".join([data["start"], *target[:step]])
            assert said.startswith(f"Step {step + 1} of {len(target)}: after {before} the model chooses {chosen},")
            means = [[sum(heads[h][step][k] for h in range(len(heads))) / len(heads) for k in range(len(source))]
                     for heads in layers]    # fmt: skip
            told = re.findall(r"layer (\d+) looks most at (\S+), weight (\d\.\d\d)", said)
            assert [(int(n), token) for n, token, _ in told] == [(n, source[largest(m)]) for n, m in enumerate(means)]
            assert all(abs(float(w) - max(m)) < 0.0051 for (_, _, w), m in zip(told, means, strict=True))
            assert lit(root) == [largest(row) for row in means]
            root.get_by_label("rows").select_option(index=1)
            rows = [head[step] for heads in layers for head in heads]
            assert lit(root) == [largest(row) for row in rows]
            numbers = root.locator("tbody td").evaluate_all("all => all.map(cell => +cell.textContent)")
            assert max(abs(a - b) for a, b in zip(numbers, sum(rows, []), strict=True)) < 0.0051
            n = largest([max(row) for row in rows])
            layer, head = divmod(n, len(layers[0]))
            told = f"head {head} of layer {layer}: it looks most at {source[largest(rows[n])]}, weight"
            assert told in root.get_by_role("status").inner_text()
            root.get_by_role("button", name="next").click(force=True)
    assert complaints == []


def lit(root):
    "In each row the column whose cell is lit, where exactly one is; the bars are as high as their numbers say."
    rows = root.locator("tbody tr").evaluate_all("""rows => rows.map(row => [...row.querySelectorAll("td")].map(cell =>
      [cell.className === "most", +cell.textContent, cell.querySelector(".weight").getBoundingClientRect().height]))""")
    assert all(sum(most for most, _, _ in row) == 1 for row in rows)
    places = [next(k for k, (most, _, _) in enumerate(row) if most) for row in rows]
    for row, k in zip(rows, places, strict=True):
        _, most, highest = row[k]
        assert all(abs(weight / most - high / highest) < 0.1 for _, weight, high in row)
    return places


@pytest.fixture
def guessed(new_tab):
    "A piece alone, of one word with two steps, its box ticked; and a function that says what of the step can be found."
    weights = torch.tensor([[0.625, 0.375], [0.25, 0.75]]).expand(2, 1, 2, 2)
    record = AttentionRecord("word", ["a", "b"], ["X1", "Y2"], weights, [0.8125, 0.9375])
    tab = new_tab()
    complaints, _ = listen(tab)
    tab.set_content(alone(attention_steps([record], "A word").html))
    root = tab.locator(".annotated-piece")
    told = [("X1", "0.81", "0.63", "0.38"), ("Y2", "0.94", "0.25", "0.75")]

    def found(step):
        stage = root.locator(".stage").evaluate("stage => stage.outerHTML")    # every attribute and every unseen text
        return [text for text in told[step] if text in stage]

    yield tab, root, found, told
    assert complaints == []


def test_a_guess_comes_first_by_mouse(guessed):
    tab, root, found, told = guessed
    said, show = root.get_by_role("status"), root.get_by_role("button", name="show")
    assert found(0) == list(told[0]) and show.count() == 0 and "?" not in root.locator(".said").inner_text()
    root.get_by_label("guess first").click()
    for step, before in enumerate(("<s>", "<s> X1")):
        assert found(step) == [] and root.locator(".said .token").last.inner_text() == "?"
        asked = f"Step {step + 1} of 2: after {before}, which token comes next, and which source token does each layer"
        assert said.inner_text() == f"{asked} look at most?"
        assert root.get_by_role("columnheader").all_inner_texts() == ["a", "b"]    # what is looked at stays
        assert root.locator("tbody td").all_inner_texts() == [""] * 4 and root.locator("[title]").count() == 0
        show.click()
        assert found(step) == list(told[step]) and said.inner_text().startswith(
            f"Step {step + 1} of 2: after {before} the model chooses {told[step][0]}, probability {told[step][1]}. On"
        )
        assert "?" not in root.locator(".stage").inner_text() and show.get_attribute("aria-disabled") == "true"
        root.get_by_role("button", name="next").click(force=True)    # the last step stays as it is
    assert found(1) == list(told[1])
    root.get_by_label("guess first").click()
    assert found(1) == list(told[1]) and show.count() == 0
    root.get_by_label("guess first").click()    # and all are covered anew
    assert found(1) == []
    root.get_by_label("rows").select_option(index=1)
    assert found(1) == [] and "each head look at most?" in said.inner_text()


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_a_guess_comes_first_by_keyboard_and_the_focus_stays_where_it_is_needed(guessed, key):
    tab, root, found, told = guessed
    root.get_by_label("guess first").focus()
    tab.keyboard.press("Space")
    assert found(0) == [] and root.get_by_label("guess first").is_checked()
    for _ in ("first", "back", "next", "last", "slider", "show"):
        tab.keyboard.press("Tab")
    for step in (0, 1):
        assert tab.evaluate("document.activeElement.textContent") == "show" and found(step) == []
        tab.keyboard.press(key)
        assert found(step) == list(told[step])
        assert tab.evaluate("document.activeElement.textContent") == "show"    # not lost
        tab.keyboard.press("ArrowRight")    # the next step, from here


@pytest.mark.parametrize("page, i", STEPS)
def test_another_word_is_covered_from_its_first_step(shown, page, i):
    _, root, _ = shown("alone", page, i)
    root.get_by_label("guess first").check()
    root.get_by_role("button", name="show").click()
    said = root.get_by_role("status")
    assert "the model chooses" in said.inner_text()
    root.get_by_label("word").select_option(index=1)
    assert said.inner_text().endswith("?") and "chooses" not in said.inner_text()
    legend = root.locator(".legend").inner_text()
    assert "highest is solid and numbered" in legend


@pytest.mark.parametrize("page, i", STEPS[:1])
def test_the_buttons_of_a_stepper_step_and_take_the_arrows_too(shown, page, i):
    tab, root, _ = shown("alone", page, i)
    slider = root.get_by_role("slider")
    button = {name: root.get_by_role("button", name=name) for name in ("first", "back", "next", "last")}
    last = slider.get_attribute("max")
    moves = [("next", "2"), ("next", "3"), ("back", "2"), ("last", last), ("next", last), ("first", "1"), ("back", "1")]
    for name, value in moves:
        button[name].click(force=True)
        assert slider.input_value() == value
        for other, end in (("first", "1"), ("back", "1"), ("next", last), ("last", last)):
            assert button[other].get_attribute("aria-disabled") == str(value == end).lower()
    button["back"].focus()
    for key, value in (("ArrowRight", "2"), ("End", last), ("ArrowLeft", str(int(last) - 1)), ("Home", "1")):
        tab.keyboard.press(key)
        assert slider.input_value() == value
    tab.keyboard.press("Shift+Tab")    # still there: an end does not take the focus away
    assert button["first"].evaluate("e => e === document.activeElement")


def test_a_wide_table_scrolls_in_its_own_box_and_by_keyboard(new_tab):
    n = 40
    letters = [chr(ord("a") + k % 26) for k in range(n)]
    record = AttentionRecord("long", letters, ["A", "B"], torch.ones(2, 2, 2, n) / n, [0.5, 0.5])
    for script in (True, False):
        tab = new_tab(width=390, java_script_enabled=script)
        tab.set_content(alone(attention_steps([record], "A long word").html))
        box = tab.get_by_role("region")
        assert box.bounding_box()["width"] <= 390 and tab.locator("table").bounding_box()["width"] > 600
        tab.mouse.move(300, 300)
        tab.mouse.wheel(200, 0)    # the page has nowhere to go
        if script:
            assert tab.evaluate("[scrollX, document.documentElement.scrollWidth]") == [0, 390]
            box.focus()
            tab.keyboard.press("ArrowRight")
            tab.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")


FRAMES = {    # how a notebook's page puts an output in, where a script set by innerHTML does not run
    "JupyterLab": """box => {
      for (const old of [...box.querySelectorAll("script")]) {
        const script = document.createElement("script");
        for (const a of old.attributes) script.setAttribute(a.nodeName, a.nodeValue);
        script.textContent = old.textContent;
        old.replaceWith(script);
      }
      document.body.append(box);
    }""",
    "VS Code": """box => {
      document.body.append(box);
      for (const old of [...box.querySelectorAll("script")]) {
        const script = document.createElement("script");
        if (old.type) script.type = old.type;
        script.text = old.textContent;
        box.appendChild(script).remove();
      }
    }""",
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("page, i", PIECES)
def test_a_piece_lives_in_a_notebook_and_again_when_its_cell_is_run_again(new_tab, frame, page, i):
    tab = new_tab()
    complaints, _ = listen(tab)
    tab.set_content(alone())
    put = f"text => {{ const box = document.createElement('div'); box.innerHTML = text; ({FRAMES[frame]})(box); }}"
    for times in (1, 2):
        tab.evaluate(put, FOUND[page][i])
        assert tab.locator(".stage").count() == times and tab.locator(".still").count() == 0
    last = tab.locator(".annotated-piece").last
    before = seen(last)
    move(tab, last.get_by_role("slider").first)
    assert seen(last) != before == seen(tab.locator(".annotated-piece").first) and complaints == []


HOSTILE = '</script><script>window.broken = 1</script><img src=x onerror="window.broken = 1"> <!-- & \' "'


def test_hostile_labels_are_text(new_tab):
    weights = torch.tensor([[0.75, 0.25], [0.5, 0.5]]).expand(2, 1, 2, 2)
    record = AttentionRecord(HOSTILE, [HOSTILE, "b"], ["A", HOSTILE], weights, [0.5, 0.5])
    piece = attention_steps([record], HOSTILE)
    for script in (True, False):
        tab = new_tab(java_script_enabled=script)
        complaints, _ = listen(tab)
        tab.set_content(alone(piece.html))
        root = tab.locator(".annotated-piece")
        assert root.get_by_role("columnheader").first.text_content() == HOSTILE
        assert root.get_attribute("aria-label") == HOSTILE == root.locator("figcaption").text_content()
        assert tab.locator("img").count() == 0 and complaints == []
        if script:
            root.get_by_role("button", name="last").click()
            assert HOSTILE in root.get_by_role("status").text_content()
            assert tab.evaluate("window.broken") is None and tab.locator("img").count() == 0


def test_where_the_script_throws_the_still_figure_stays_and_the_next_piece_lives(new_tab):
    tab = new_tab()
    pieces = [Piece("one", {}, "<p>still</p>", "throw new Error('no');")]
    pieces += [Piece("two", {}, "<p>still</p>", "stage.append('moving');")]
    tab.set_content(alone(*(piece.html for piece in pieces)))
    asleep = "still\n\nIt moves where scripts run; in a notebook, run its cell."
    assert [html.unescape(text) for text in tab.locator(".still, .stage").all_inner_texts()] == [asleep, "moving"]
