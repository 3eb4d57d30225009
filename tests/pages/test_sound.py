"""The instrument heard: on a page of the book, when somebody asks for it, and from two files of the book."""

import shutil
from pathlib import Path

import pytest
from browsing import Strict, listen, serve, wait_until

from annotated_decoder.pronunciation.model import PRONOUNCER, pronouncer
from annotated_decoder.teaching import interactive
from annotated_decoder.teaching.instrument import instrument

FILES = ["voice.bin", "voice.js"]
BANK = Path(__file__).resolve().parents[2] / "book" / "_static" / "voice.bin"
RECORDER = """
window.heard = [];
window.AudioContext = class {
  resume() {}
  createBuffer(channels, length, rate) {
    return { channels, length, rate, copyToChannel(samples) { this.samples = samples; } };
  }
  createBufferSource() {
    return {
      connect(where) { this.to = where; }, stop() { this.stopped = true; },
      start() {
        const { length, rate, samples } = this.buffer, loudest = Math.max(...samples.map(Math.abs));
        window.heard.push({ length, rate, loudest, source: this, out: this.to === "speakers" });
      },
    };
  }
  get destination() { return "speakers"; }
};
"""
HEARD = "heard.map(({ source, ...rest }) => ({ ...rest, stopped: Boolean(source.stopped) }))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A page with the instrument, its script and style as files, and the book's files beside it."
    home = tmp_path_factory.mktemp("book")
    static = home / "_static"
    static.mkdir()
    piece = instrument(pronouncer(), ["read", "sought"], "Type a word", live=True)
    pieces = interactive.files("annotated_decoder.teaching").joinpath("pieces")
    for path in (pieces / "decoder.js", pieces / "voice.js", BANK):
        shutil.copy(path, static)
    shutil.copy(PRONOUNCER, static / "pronouncer.safetensors")
    written = {"book.js": "", "piece.js": piece.js, "piece.css": piece.css}
    written["icon.svg"] = '<svg xmlns="http://www.w3.org/2000/svg"/>'
    for name, text in written.items():
        (static / name).write_text(text, encoding="utf-8")
    style, script = '<link rel="stylesheet" href="_static/piece.css">', '<script src="_static/piece.js"></script>'
    icon = '<link rel="icon" href="_static/icon.svg">'
    start = f'<!doctype html><html lang="en"><meta charset="utf-8">{icon}<title>a page</title>'
    text = f'{start}<body><script src="_static/book.js"></script>{piece.figure(style, script)}</body></html>'
    (home / "index.html").write_text(text, encoding="utf-8")
    (home / "alone.html").write_text(f"{start}<body>{piece.html}</body></html>", encoding="utf-8")
    return home


@pytest.fixture
def opened(browser, folder):
    "A function that opens a page: its tab, the instrument, what the console complains of, what was asked for."
    contexts = []
    with serve(folder, Strict) as address:

        def open_page(page=address + "index.html", script=RECORDER):
            contexts.append(browser.new_context(reduced_motion="reduce"))
            tab, asked = contexts[-1].new_page(), []
            complaints, _ = listen(tab)
            tab.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
            tab.add_init_script(script)
            tab.goto(page)
            return tab, tab.locator(".annotated-piece"), complaints, asked

        yield open_page
        for context in contexts:
            context.close()


def hear(tab, root, times):
    root.get_by_role("button", name="hear it").click()
    answer = root.get_by_role("alert")
    wait_until(tab, lambda: tab.evaluate("heard.length") == times or "cannot" in answer.inner_text())
    return tab.evaluate(HEARD)


def test_nothing_is_fetched_before_the_press_and_then_two_files_once(opened):
    tab, root, complaints, asked = opened()
    root.get_by_role("button", name="first").click()
    root.get_by_role("button", name="sought", exact=True).click()
    assert not set(FILES) & set(asked) and tab.evaluate("heard") == []
    (sought,) = hear(tab, root, 1)
    assert sought["rate"] == 16000 and 0.3 < sought["length"] / sought["rate"] < 0.9
    assert 0.7 < sought["loudest"] < 1 and sought["out"] and root.get_by_role("alert").inner_text() == ""
    root.get_by_role("button", name="read", exact=True).click()
    before, read = hear(tab, root, 2)
    assert before["stopped"] and not read["stopped"] and read["length"] != sought["length"]
    assert sorted(name for name in asked if name in FILES) == FILES and "pronouncer.safetensors" not in asked
    assert [text for text in complaints if "inline style" not in text] == []


def test_the_button_stays_where_it_is_while_the_word_plays_and_can_be_pressed(opened):
    tab, root, _, _ = opened()
    button = root.get_by_role("button", name="hear it")
    still = button.bounding_box()
    root.get_by_role("button", name="play").click()
    assert root.get_by_role("button", name="pause").count() == 1 and button.bounding_box() == still
    assert len(hear(tab, root, 1)) == 1 and button.bounding_box() == still


def test_it_says_the_sounds_that_were_chosen_and_not_the_letters(opened):
    tab, root, _, _ = opened()
    hear(tab, root, 1)
    root.locator(".tiles .sound").nth(1).click()
    root.locator(".candidate", has_text="EH1").click()
    assert root.locator(".tiles .letter").all_inner_texts()[:4] == [*"read"]
    hear(tab, root, 2)
    middles = tab.evaluate("heard.map(({ source: { buffer: { samples: x } } }) => [...x.slice(x.length / 2)])")
    assert middles[0][:300] != middles[1][:300]


def test_a_typed_word_is_heard_too(opened):
    tab, root, _, _ = opened()
    root.get_by_label("a word").fill("nebula")
    root.get_by_label("a word").press("Enter")
    wait_until(tab, lambda: root.locator(".tiles .letter").count() == 7)
    assert 0.4 < hear(tab, root, 1)[0]["length"] / 16000 < 1.1


def test_without_its_file_a_sentence_says_so_and_the_next_press_asks_again(opened):
    tab, root, _, _ = opened()
    tab.route("**/voice.bin", lambda route: route.fulfill(status=404))
    assert hear(tab, root, 1) == []
    assert "The voice cannot be heard (the server answers 404)." in root.get_by_role("alert").inner_text()
    tab.unroute("**/voice.bin")
    assert len(hear(tab, root, 1)) == 1 and root.get_by_role("alert").inner_text() == ""


def test_the_browsers_own_sound_takes_it(opened):
    tab, root, complaints, _ = opened(script="""
      window.heard = [];
      const start = AudioBufferSourceNode.prototype.start;
      AudioBufferSourceNode.prototype.start = function () {
        start.call(this);
        window.heard.push({ length: this.buffer.length, state: this.context.state, source: this });
      };""")
    (sound,) = hear(tab, root, 1)
    assert sound["length"] > 3000 and root.get_by_role("alert").inner_text() == ""
    assert [text for text in complaints if "Audio" in text or "exception" in text] == []


def test_the_button_is_reached_and_pressed_by_keyboard(opened):
    tab, root, _, _ = opened()
    root.get_by_role("button", name="play").focus()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "hear it"
    for i, key in enumerate(["Enter", "Space"]):
        tab.keyboard.press(key)
        wait_until(tab, lambda n=i + 1: tab.evaluate("heard.length") == n)


def test_without_an_audio_context_or_from_the_disk_a_sentence_says_why(opened, folder):
    why = {"this browser has no AudioContext": opened(script="window.heard = []; delete window.AudioContext")}
    why["a page opened from the disk may fetch nothing"] = opened((folder / "index.html").as_uri())
    for reason, (tab, root, _, asked) in why.items():
        assert hear(tab, root, 1) == [] and not set(FILES) & set(asked)
        assert f"The voice cannot be heard ({reason})." in root.get_by_role("alert").inner_text()


def test_where_no_book_is_around_the_piece_there_is_no_such_button(opened, folder):
    _, root, _, _ = opened((folder / "alone.html").as_uri())
    assert root.get_by_role("button", name="last").count() == 1
    assert root.get_by_role("button", name="hear it").count() == 0
