"""The page of a comparison in a browser: lighting up, hiding, no network, no complaints, also in a sandboxed frame."""

import pytest

from mistudio.artifacts import open_store
from mistudio.report.compare import compare
from tests.support.fake_sweep import jumprelu, publish_evaluation, topk

pytest.importorskip("playwright")
from tests.browser.chromium import find_chromium  # noqa: E402 -- needs playwright

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs chromium (apt-get install chromium)")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("comparison")))
    evaluations = [
        publish_evaluation(store, settings(k), seed, l0=k + seed / 10, ce_recovered=1 - (lost + seed / 50) / k)
        for settings, lost in ((topk, 0.3), (jumprelu, 0.2))
        for k in (4, 16)
        for seed in (0, 1)
    ]
    return compare(store, evaluations).artifact.file("comparison.html")


@pytest.fixture
def page(browser):
    """A page that must neither complain nor ask for anything."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "about:"))] == []


def test_a_mark_lights_up_in_both_drawings_and_in_the_table_and_says_what_it_is(page, path):
    page.goto(path.as_uri())
    mark = page.locator(".mark").first
    mark.hover()
    number = mark.get_attribute("data-number")
    lit = page.locator(".lit").evaluate_all("all => all.map(one => one.dataset.number)")
    assert lit == [number] * 3
    assert page.locator("#tip").inner_text() == mark.get_attribute("data-label")
    page.locator("h1").hover()
    assert page.locator(".lit").count() == 0
    assert page.locator("#tip").is_hidden()


def test_a_button_hides_an_architecture_everywhere_and_shows_it_again(page, path):
    page.goto(path.as_uri())
    button = page.get_by_role("button", name="topk")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert page.locator("tbody tr:visible").count() == 2
    assert page.locator(".mark:visible").count() == 4
    button.click()
    assert page.locator("tbody tr:visible").count() == 4
    assert page.locator(".mark:visible").count() == 8


def test_it_works_in_the_sandboxed_frame_of_a_dashboard(page, path):
    page.set_content('<iframe sandbox="allow-scripts" style="width: 1200px; height: 800px"></iframe>')
    page.locator("iframe").evaluate("(frame, text) => frame.srcdoc = text", path.read_text(encoding="utf-8"))
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="topk").click()
    assert frame.locator("tbody tr:visible").count() == 2
