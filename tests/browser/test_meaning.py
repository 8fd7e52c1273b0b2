"""Explanations, scores, neighbours and the map of a dashboard, in a browser."""

import pytest

from mistudio.artifacts import open_store
from mistudio.report import report
from tests.support.fake_meaning import publish_meaningful_run

pytest.importorskip("playwright")
from tests.browser.chromium import find_chromium  # noqa: E402 -- needs playwright

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs chromium (apt-get install chromium)")

NUM_FEATURES = 20
DEAD = 4
MAP_MARGIN_PX = 14


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("meaning")))
    features, evaluation, scores = publish_meaningful_run(
        store, NUM_FEATURES, dead=[DEAD], person={2: "what a `person` saw"}
    )
    return report(store, features, evaluation, scores=scores).artifact.file("dashboard.html")


def listed(page) -> list[int]:
    return [int(text) for text in page.locator(".row .number").all_inner_texts()]


def feature_is(page, feature: int) -> None:
    page.wait_for_selector(f"#detail[aria-label='Feature {feature}']")


def test_the_list_shows_labels_sorts_by_score_and_is_searched_by_explanation(watched, path):
    page = watched(path)
    assert listed(page)[:3] == [19, 18, 17]
    page.locator("#columns").get_by_role("button", name="Feature").click()
    assert page.locator("#row-2 .peaks").inner_text() == "what a person saw"
    page.locator("#columns").get_by_role("button", name="F1").click()
    assert listed(page)[:3] == [19, 18, 17]
    assert page.locator("#row-19 .value").last.inner_text() == "1.000"
    page.locator("#search").fill("number-7-way")
    assert listed(page) == [7]
    assert "number-7-way" in page.locator("#row-7").inner_text()
    page.locator("#search").fill("what a `person`")
    assert listed(page) == [2]


def test_a_feature_shows_explanations_with_scores_intervals_and_controls(watched, path):
    page = watched(path, "#feature=2")
    feature_is(page, 2)
    shown = page.locator(".explanation").all_inner_texts()
    assert shown[0].startswith("what a person saw")
    assert shown[0].endswith("by a person")
    assert "number-2-way" in shown[1]
    assert shown[1].endswith("program · fit on training documents 0.90")
    assert "best set of tokens alone" in shown[2]
    names = page.locator(".scores tbody th").all_inner_texts()
    assert names == ["program, by detection", "Program", "", "Bare set of tokens", "", "Another feature's program"]
    table = page.locator(".scores").inner_text()
    assert "0.150" in table
    assert "0.10–0.19" in table
    assert "0.004" in table
    assert page.locator(".scores tbody tr").first.locator("td").last.inner_text() == "3 of 40"
    assert "above 20% of max" in table
    effect = page.get_by_role("region", name="In the model")
    assert effect.locator("p").first.inner_text() == (
        "Taking it away makes the next token harder to predict by 0.5 nats (control −0.02): the model uses it here. "
        "Later in the text, where it does not fire: harder to predict by 0.01 nats."
    )


def test_a_dead_feature_says_why_it_has_no_explanation(watched, path):
    page = watched(path, f"#feature={DEAD}")
    feature_is(page, DEAD)
    assert "No explanation (dead): Never fires." in page.locator(".explanations").inner_text()
    assert "No scores" in page.locator(".explanations").inner_text()
    assert page.locator(".scores").count() == 0


def test_neighbours_open_when_they_are_clicked(watched, path):
    page = watched(path, "#feature=2")
    feature_is(page, 2)
    nearest = page.locator("[data-relation=decoder] button")
    assert [int(text.split()[0]) for text in nearest.all_inner_texts()] == [3, 1]
    nearest.first.click()
    feature_is(page, 3)
    page.locator("[data-relation=correlation] button").first.click()
    feature_is(page, 5)
    assert page.url.endswith("#feature=5")


def test_the_map_opens_the_feature_that_is_clicked(watched, path):
    page = watched(path, "#feature=1")
    feature_is(page, 1)
    page.get_by_role("button", name="Map and scores").click()
    assert not page.locator("#detail").is_visible()
    assert "interpretable: F1 ≥ 0.8" in page.locator("#overview").inner_text()
    assert page.locator("#score-chart .bar:not(.off)").count() == 4
    place = place_on_map(page, 10)
    page.mouse.move(*place)
    assert page.locator("#map-text").inner_text().startswith("Feature 10")
    page.mouse.click(*place)
    feature_is(page, 10)
    assert page.locator("#detail").is_visible()
    assert not page.locator("#overview").is_visible()


def test_features_that_the_list_does_not_show_cannot_be_clicked_on_the_map(watched, path):
    page = watched(path, "#feature=1")
    feature_is(page, 1)
    page.get_by_role("button", name="Map and scores").click()
    page.locator("#search").fill("number-7-way")
    page.mouse.click(*place_on_map(page, 10))
    page.mouse.click(*place_on_map(page, 7))
    feature_is(page, 7)


def test_the_map_is_drawn_in_the_colours_of_clusters_or_scores(watched, path):
    page = watched(path, "#feature=0")
    feature_is(page, 0)
    page.get_by_role("button", name="Map and scores").click()
    clusters = page.locator("#map").evaluate("map => map.toDataURL()")
    page.locator("#map-colour").get_by_role("button", name="F1").click()
    scores = page.locator("#map").evaluate("map => map.toDataURL()")
    blank = page.locator("#map").evaluate("map => (map.width += 0, map.toDataURL())")
    assert len({clusters, scores, blank}) == 3


def test_tokens_are_shaded_by_activation_or_attribution(watched, path):
    page = watched(path, "#feature=2")
    feature_is(page, 2)
    first = page.locator(".contexts li").first
    assert first.locator(".token.against").count() == 0
    assert page.locator("[data-shading]").count() == 2
    first.get_by_role("button", name="Integrated gradients").click()
    assert first.locator(".token.peak").get_attribute("title") == "2.00"
    assert first.locator(".token.against").get_attribute("title") == "-0.400"
    page.keyboard.press("k")
    feature_is(page, 3)
    pressed = page.locator(".contexts li").first.locator("[aria-pressed=true]")
    assert pressed.inner_text() == "Integrated gradients"


def test_other_contexts_are_folded_and_stay_open_from_feature_to_feature(watched, path):
    page = watched(path, "#feature=2")
    feature_is(page, 2)
    assert page.locator(".folded").evaluate_all("all => all.map(one => one.dataset.kind)") == [
        "sampled",
        "hard_negative",
        "random",
    ]
    assert page.locator(".folded li").count() == 0
    page.locator("[data-kind=hard_negative] summary").click()
    page.wait_for_selector("[data-kind=hard_negative] li")
    assert page.locator("[data-kind=hard_negative] .token.on").count() == 0
    page.locator("[data-kind=hard_negative] li .link").first.click()
    feature_is(page, 3)
    page.wait_for_selector("[data-kind=hard_negative] li")
    assert page.locator("[data-kind=random] li").count() == 0


def test_on_a_phone_nothing_is_wider_than_the_screen(watched, path):
    page = watched(path, width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Map and scores").click()
    assert page.locator("#map").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Close").click()
    page.locator("#map").wait_for(state="hidden")
    page.locator("#row-2").click()
    feature_is(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(".tasks .value").first.evaluate("cell => { cell.textContent = '0.000014%'; }")  # the longest there is
    wider = "all => all.filter((cell) => cell.scrollWidth > cell.clientWidth).length"
    assert page.locator(".tasks .value").evaluate_all(wider) == 0


def test_every_control_has_a_name(watched, path):
    page = watched(path, "#feature=2")
    feature_is(page, 2)
    unnamed = page.locator("button, summary, canvas, [role=group], [role=img]").evaluate_all(
        "all => all.filter(one => !(one.getAttribute('aria-label') || one.textContent.trim()))"
        ".map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_the_map_zooms_about_the_pointer_moves_with_it_and_goes_back(watched, path):
    page = watched(path, "#feature=1")
    feature_is(page, 1)
    page.get_by_role("button", name="Map and scores").click()
    whole = page.locator("#map").evaluate("map => map.toDataURL()")
    place, other = place_on_map(page, 10), place_on_map(page, 7)
    page.mouse.move(*place)
    page.mouse.wheel(0, -1000)
    assert page.locator("#map").evaluate("map => map.toDataURL()") != whole
    page.mouse.move(*other)
    assert not page.locator("#map-text").inner_text().startswith("Feature 7")
    page.mouse.move(*place)
    assert page.locator("#map-text").inner_text().startswith("Feature 10")
    moved = (place[0] - 60, place[1] + 45)
    page.mouse.down()
    page.mouse.move(*moved, steps=5)
    page.mouse.up()
    assert page.locator("#overview").is_visible()  # a drag opens nothing
    page.mouse.move(*place)
    assert not page.locator("#map-text").inner_text().startswith("Feature 10")
    page.mouse.move(*moved)
    assert page.locator("#map-text").inner_text().startswith("Feature 10")
    page.get_by_role("button", name="Zoom out").click()
    page.locator("#map-zoom").get_by_role("button", name="All").click()
    assert page.locator("#map").evaluate("map => map.toDataURL()") == whole
    page.get_by_role("button", name="Zoom in").click()
    assert page.locator("#map").evaluate("map => map.toDataURL()") != whole


def place_on_map(page, feature: int) -> tuple[float, float]:
    """Where a feature is drawn: the map fills its canvas up to a margin, with one scale for both axes."""
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    columns = page.evaluate("() => JSON.parse(document.getElementById('index').textContent)")
    scale = min(box["width"] - 2 * MAP_MARGIN_PX, box["height"] - 2 * MAP_MARGIN_PX) / max(columns["x"])
    left = box["x"] + box["width"] / 2 + (columns["x"][feature] - max(columns["x"]) / 2) * scale
    return left, box["y"] + box["height"] / 2 - (columns["y"][feature] - max(columns["y"]) / 2) * scale
