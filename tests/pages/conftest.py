"""One browser, and one server of the built book, for all tests of the pages."""

import functools
import http.server
import threading

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="session")
def site():
    from browsing import HTML, Quiet

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    from browsing import CHROMIUM, FLAGS, missing

    assert not missing, missing
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
