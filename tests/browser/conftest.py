"""A browser, and pages in it that must neither complain nor ask for anything."""

import re

import pytest


@pytest.fixture(scope="module")
def browser():
    # Not at the top: without playwright the tests of this folder are skipped, and this file is read all the same.
    from tests.browser.chromium import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture
def watched(browser):
    """A function that opens a page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    complaints: list[str] = []
    requests: list[str] = []

    def opened(path, fragment="", **viewport):
        page = context.new_page()
        if viewport:
            page.set_viewport_size(viewport)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri() + fragment)
        return page

    yield opened
    context.close()
    assert complaints == []
    assert [url for url in requests if not re.match(r"file:.*\.html|data:|about:", url)] == []
