"""What the tests of the pages share: the built book, the browser, and what it complains of.

Importing this skips the tests where there is no book or no Debian Chromium, unless BROWSER=required.
"""

import contextlib
import functools
import http.server
import os
import shutil
import socketserver
import threading
from pathlib import Path

import axe_playwright_python
import pytest

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = sorted(str(p.relative_to(HTML)) for folder in ("book", "notebooks") for p in (HTML / folder).rglob("*.html"))
PAGES += ["genindex.html", "search.html"] if PAGES else []
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",    # a page that asks another host is heard to fail
]  # fmt: skip
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

missing = "there is no Chromium here" if not CHROMIUM else "" if PAGES else "the book is not built"
if missing and os.environ.get("BROWSER") != "required":
    pytest.skip(f"{missing}; in Debian: apt-get install chromium, then make pages", allow_module_level=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass


class Strict(Quiet):
    "A page may run nothing but its own files."

    def end_headers(self):
        self.send_header("Content-Security-Policy", "default-src 'self'")
        super().end_headers()


class Server(socketserver.ThreadingTCPServer):
    "`http.server`'s own asks for its host's name, and lets five connections wait."

    daemon_threads, request_queue_size = True, 128


@contextlib.contextmanager
def serve(folder, handler=Quiet):
    "A folder on a port of this machine, as long as the address that this gives is used."
    with Server(("127.0.0.1", 0), functools.partial(handler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def listen(tab):
    "A list that grows by whatever the tab's console and requests complain of, and how to end that."
    complaints = []
    listeners = {
        "console": lambda m: m.type in ("error", "warning") and complaints.append(f"{m.type}: {m.text}"),
        "pageerror": lambda error: complaints.append(f"exception: {error}"),
        "requestfailed": lambda request: complaints.append(f"failed: {request.url}"),
        "response": lambda answer: answer.status >= 400 and complaints.append(f"{answer.status}: {answer.url}"),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)
    return complaints, lambda: [tab.remove_listener(event, listener) for event, listener in listeners.items()]


def wait_until(tab, found):
    "From outside: a page that may run nothing but its own files refuses the waiting of Playwright, too."
    for _ in range(200):
        if found():
            return
        tab.wait_for_timeout(50)
    raise TimeoutError


def inside(part, box):
    "Whether a part is seen from its left edge to its right one, in a box that scrolls sideways."
    inner, outer = part.bounding_box(), box.bounding_box()
    return outer["x"] <= inner["x"] and inner["x"] + inner["width"] <= outer["x"] + outer["width"] + 1


def turn(tab, theme):
    "Make a page dark or light, as its button does; colours that glide arrive at once."
    tab.evaluate("""theme => {
      Object.assign(document.documentElement.dataset, { theme, mode: theme });
      document.getAnimations().forEach(one => one.finish());
    }""", theme)


LOOK = """async ([part, rules]) => {
  const found = await axe.run(part, { runOnly: rules, resultTypes: ["violations"] });
  const faults = found.violations.flatMap(({ id, nodes }) => nodes.map(
    ({ html, failureSummary }) => `${id}: ${html.slice(0, 200)} ${failureSummary}`));
  return [found.passes.length, faults];
}"""


def violations(tab, part="html", rules=RULES):
    "What axe finds wrong with a part of the page, one text for each element."
    if not tab.evaluate("'axe' in window"):
        tab.evaluate(AXE)
    passed, faults = tab.evaluate(LOOK, [part, rules])
    assert passed or rules != RULES    # it did look
    return faults
