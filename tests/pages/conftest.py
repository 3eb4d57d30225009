"""One browser, and one server of the built book, for all tests of the pages."""

import pytest
from playwright.sync_api import sync_playwright


@pytest.fixture(scope="session")
def site():
    from browsing import HTML, serve

    with serve(HTML) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    from browsing import CHROMIUM, FLAGS, missing

    assert not missing, missing
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()
