"""Whatever a corpus, a model, a judge or a person writes is text in the pages, in a real browser."""

import socket
from contextlib import suppress
from importlib import resources

import pytest

from mistudio.artifacts import open_store
from mistudio.report import ReportConfig, report
from mistudio.report.compare import compare
from tests.support.fake_meaning import explain_all, publish_scores, score_all, surround, surrounding_tables
from tests.support.fake_run import make_tables, publish_tables
from tests.support.fake_sweep import publish_evaluation, topk

pytest.importorskip("playwright")
from tests.browser.chromium import find_chromium  # noqa: E402 -- needs playwright

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs chromium (apt-get install chromium)")

DO = "parent.evil=window.evil=1"
# One for each of: element, handler, end of a script, comment and CDATA, style, frame, link, SVG, form, template,
# Markdown, entities, a base address, refresh, what ends an attribute, and names that objects have.
EVILS = [
    f"<script>{DO}</script>",
    f'<img src=x onerror="{DO}">',
    f"</script><script>{DO}</script>",
    f"<!--<script>--><![CDATA[<script>{DO}</script>]]>",
    f"<style>@import 'http://127.0.0.1:9/x'</style><div style='background:url(http://127.0.0.1:9/y)' onclick={DO}>",
    f'<iframe srcdoc="<script>{DO}</script>"></iframe><object data="data:text/html,<script>{DO}</script>">',
    f'<a href="javascript:{DO}" autofocus onfocus={DO}>click</a>',
    f"<svg onload={DO}><animate onbegin={DO}><foreignObject><body onload={DO}>",
    f"<form action=http://127.0.0.1:9/z><input autofocus onfocus={DO}><button formaction=javascript:{DO}>",
    "{{7*7}}{% raw %}${7*7}#{7*7}`${alert(1)}`",
    f"[x](javascript:{DO}) ![x](http://127.0.0.1:9/w.png) <http://127.0.0.1:9/v> **bold** # head | cell |",
    f"&lt;script&gt;{DO}&lt;/script&gt;&#60;img src=x onerror={DO}&#62;",
    "<base href=http://127.0.0.1:9/><link rel=stylesheet href=//127.0.0.1:9/u>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/t'><title>taken</title>",
    f"\"'><img src=x onerror={DO}>\u2028\u2029\\\\",
    "__proto__",
]
ALL = " ".join(EVILS)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """A page of as many features as there are bad texts, each in all places where text of others stands."""
    store = open_store(str(tmp_path_factory.mktemp("hostile")))
    feature_rows, context_rows = make_tables(len(EVILS), 6, set(), 24, True)
    surround(feature_rows, context_rows)
    for row in feature_rows:
        evil = EVILS[row["feature"]]
        row["promoted_tokens"][0] = row["lift_tokens"][0] = evil
    for row in context_rows:
        evil = EVILS[row["feature"]]
        row["tokens"] = [evil if index == row["peak"] else token for index, token in enumerate(row["tokens"])]
        row["task"] = evil
    neighbours, places = surrounding_tables(len(EVILS))
    features, evaluation = publish_tables(
        store, feature_rows, context_rows, subject=f"folder:{ALL}", hook=ALL, neighbours=neighbours, places=places
    )
    explanations = explain_all(feature_rows, context_rows, dict(enumerate(EVILS)))
    scores = publish_scores(store, features, feature_rows, explanations, score_all(feature_rows))
    made = report(store, features, evaluation, ReportConfig(title=EVILS[0]), scores=scores)
    return made.artifact.file("dashboard.html")


def received(listening: socket.socket) -> bytes:
    """All that was sent to a socket; Chromium opens connections ahead, and sends nothing on those that it must not."""
    content = b""
    with listening:
        while True:
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return content
            connection.settimeout(1)
            with connection, suppress(TimeoutError):
                content += connection.recv(1000)


def nothing_ran(page) -> None:
    assert page.evaluate("window.evil") is None
    assert page.evaluate("({}).polluted") is None
    found = page.locator(
        "img, iframe, object, embed, form, base, template, foreignObject, animate, [onerror], [onload]"
    )
    assert found.count() == 0
    assert page.locator("a:not([href^='#'])").count() == 0


def test_texts_of_corpora_judges_and_people_show_as_they_are(watched, dashboard) -> None:
    page = watched(dashboard)
    page.wait_for_selector("#detail")
    for feature, evil in enumerate(EVILS):
        page.locator("#search").fill(evil.split("\u2028")[0])
        page.locator(f"#row-{feature}").click()
        page.wait_for_selector(f"#detail[aria-label='Feature {feature}']")
        shown = [text.replace("·", " ") for text in page.locator("#detail *").all_text_contents()]
        start = evil.split("\u2028")[0]
        assert any(start in text for text in shown), evil
        explanation = page.locator(".explanation").first.text_content()
        assert start.replace("`", "") in explanation  # pieces in ` ` are set as code
        nothing_ran(page)


def test_titles_names_of_models_and_hook_points_show_as_they_are(watched, dashboard) -> None:
    page = watched(dashboard)
    page.wait_for_selector("#detail")
    assert EVILS[0] in page.locator("h1").inner_text()
    for node in page.locator("button.node").all():
        node.click()
        nothing_ran(page)
    assert f"folder:{EVILS[0]}" in page.locator("body").text_content()
    page.locator("#search").fill(EVILS[1])
    assert page.locator(".row .number").all_inner_texts() == ["1"]
    nothing_ran(page)


def test_a_script_that_got_into_the_page_all_the_same_would_not_run(browser, dashboard) -> None:
    """The policy of the page holds by itself: no script but its own, no handler, no address, no frame."""
    page = browser.new_page()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0)
    page.goto(dashboard.as_uri())
    page.wait_for_selector("#detail")
    refused = page.evaluate(
        """([parts, place]) => new Promise((done) => {
          const seen = [];
          document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
          const holder = document.createElement("div");
          document.body.append(holder);
          holder.innerHTML = parts;
          const script = document.createElement("script");
          script.textContent = "window.evil = 1";
          document.body.append(script);
          const image = holder.appendChild(document.createElement("img"));
          image.src = `${place}/image`;
          const frame = holder.appendChild(document.createElement("iframe"));
          frame.src = `${place}/frame`;
          const wait = () => (seen.length >= 4 ? done(seen) : setTimeout(wait, 20));
          wait();
        })""",
        ['<b onclick="window.evil=1" id="handler">x</b>', f"http://127.0.0.1:{listening.getsockname()[1]}"],
    )
    page.locator("#handler").click()
    assert {"script-src-elem", "script-src-attr", "img-src", "frame-src"} <= set(refused)
    assert page.evaluate("window.evil") is None
    page.close()
    assert received(listening) == b""


def test_names_in_a_comparison_show_as_they_are(watched, tmp_path) -> None:
    store = open_store(str(tmp_path))
    settings = [{**topk(k), "architecture": evil} for k, evil in enumerate(EVILS, start=4)]
    evaluations = [publish_evaluation(store, each, l0=each["k"], hook=ALL) for each in settings]
    page = watched(compare(store, evaluations).artifact.file("comparison.html"))
    for button in page.locator(".legend button").all():
        button.click()
    page.locator(".legend button").first.click()
    page.locator(".mark:visible").first.hover()
    assert any(evil in page.locator("tbody").text_content() for evil in EVILS[:1])
    assert EVILS[0] in page.locator("header").text_content()
    nothing_ran(page)


def test_every_page_carries_a_policy_before_anything_else() -> None:
    templates = resources.files("mistudio.report") / "templates"
    pages = [each for each in templates.iterdir() if each.name.endswith(".html.j2")]
    assert len(pages) >= 2
    for page in pages:
        head = page.read_text().split("<head>")[1].split("\n")
        assert "charset" in head[1]
        assert head[2].startswith(
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; script-src '
        )
        assert "unsafe" not in head[2]
