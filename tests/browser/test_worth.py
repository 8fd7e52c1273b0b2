"""What a dashboard opens on, and what it says of features that are dense, dead, alike, or not looked into."""

import pyarrow as pa
import pytest

from mistudio.artifacts import open_store
from mistudio.report import report
from tests.support.fake_meaning import explain_all, publish_scores, score_all, surround, surrounding_tables
from tests.support.fake_run import make_tables, publish_tables

pytest.importorskip("playwright")
from tests.browser.chromium import find_chromium  # noqa: E402 -- needs playwright

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs chromium (apt-get install chromium)")

NUM_FEATURES = 12
DEAD, DENSE, LIKE, BETTER, HARMFUL, WEAK, UNTRIED, UNEXPLAINED, UNSCORED = 0, 11, 9, 10, 8, 7, 6, 5, 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Features, the page of all of them, and the explanations."""
    store = open_store(str(tmp_path_factory.mktemp("worth")))
    rows, contexts = make_tables(NUM_FEATURES, 3, {DEAD}, 16, True)
    surround(rows, contexts)
    rows[DENSE] |= {"density": 0.34, "count": 1_020_000}
    rows[HARMFUL] |= {"ablation": -0.05, "ablation_control": 0.01, "ablation_elsewhere": 0.0001}
    rows[WEAK] |= {"ablation": 0.03, "ablation_control": -0.02, "ablation_elsewhere": None}
    rows[UNTRIED] |= {"ablation": None, "ablation_control": None, "ablation_elsewhere": None}
    neighbours, places = surrounding_tables(NUM_FEATURES)
    group = [LIKE if feature in (LIKE, BETTER) else None for feature in range(NUM_FEATURES)]
    column = places.schema.get_field_index("group")
    places = places.set_column(column, places.schema.field("group"), pa.array(group, pa.int32()))
    features, evaluation = publish_tables(store, rows, contexts, neighbours=neighbours, places=places)
    explanations = [one for one in explain_all(rows, contexts, {}) if one.feature != UNEXPLAINED]
    scores = [one for one in score_all(rows) if one.feature not in (UNEXPLAINED, UNSCORED)]
    scored = publish_scores(store, features, rows, explanations, scores)
    page = report(store, features, evaluation, scores=scored).artifact.file("dashboard.html")
    return features, page, scored.manifest.inputs["explanations"]


@pytest.fixture(scope="module")
def path(run):
    return run[1]


def listed(page) -> list[int]:
    return [int(text) for text in page.locator(".row .number").all_inner_texts()]


def opened(watched, path, feature: int):
    page = watched(path, f"#feature={feature}")
    page.wait_for_selector(f"#detail[aria-label='Feature {feature}']")
    return page


def in_the_model(page) -> str:
    return page.get_by_role("region", name="In the model").locator("p").first.inner_text()


def test_it_opens_on_what_is_most_worth_seeing_and_says_so(watched, path):
    page = watched(path)
    page.wait_for_selector(f"#detail[aria-label='Feature {BETTER}']")
    assert (
        listed(page)
        == [BETTER, HARMFUL, WEAK, UNTRIED, 3, 2, 1, UNSCORED, UNEXPLAINED, DENSE, LIKE][: len(listed(page))]
    )
    order = page.locator(".order")
    assert order.inner_text().strip() == "Most worth seeing first"
    order.locator("summary").click()
    assert "two thirds of it how far the explanation of a feature rises above its control" in order.inner_text()


def test_another_order_is_named_and_the_way_back_is_there(watched, path):
    page = watched(path)
    assert page.get_by_role("button", name="Worth first").count() == 0
    page.locator("#columns").get_by_role("button", name="Density").click()
    assert page.locator("#order-text").inner_text() == "By density, falling"
    assert listed(page)[0] == DENSE
    page.locator("#columns").get_by_role("button", name="Feature").click()
    assert page.locator("#order-text").inner_text() == "By number, rising"
    page.get_by_role("button", name="Worth first").click()
    assert page.locator("#order-text").inner_text() == "Most worth seeing first"
    assert listed(page)[0] == BETTER


def test_a_dense_feature_says_that_it_is_dense_and_what_that_means(watched, path):
    page = opened(watched, path, DENSE)
    assert page.locator("#row-11 .badge").inner_text() == "dense"
    assert page.locator(".detail header .badge").first.inner_text() == "dense"
    note = page.locator(".flag").inner_text()
    assert note.startswith("Dense: it fires on 34% of all tokens, and counts as dense above 10%.")
    assert page.locator("#row-10 .badge").count() == 0


def test_a_dead_feature_says_that_it_is_dead_and_offers_nothing_that_would_not_help(watched, path):
    page = opened(watched, path, DEAD)
    assert "Dead: it never fired" in page.locator(".flag").inner_text()
    assert page.locator("#detail .command").count() == 0
    assert page.get_by_role("region", name="In the model").count() == 0


def test_a_near_duplicate_opens_the_better_one(watched, path):
    page = opened(watched, path, LIKE)
    assert page.locator("#row-9 .badge").inner_text() == "≈ 10"
    page.locator(".flag button").click()
    page.wait_for_selector(f"#detail[aria-label='Feature {BETTER}']")


def test_a_loss_that_falls_without_the_feature_is_explained(watched, path):
    page = opened(watched, path, HARMFUL)
    assert in_the_model(page) == (
        "Taking it away makes the next token easier to predict by 0.05 nats (control 0.01): "
        "the model is better off without it here. "
        "Later in the text, where it does not fire: harder to predict by less than 0.001 nats."
    )
    page.get_by_role("region", name="In the model").locator("summary").click()
    why = page.get_by_role("region", name="In the model").inner_text()
    for reason in ("hold back what comes next", "error of the dictionary", "it is chance"):
        assert reason in why


def test_an_effect_below_twice_its_control_claims_nothing(watched, path):
    page = opened(watched, path, WEAK)
    assert in_the_model(page).endswith(
        "0.03 nats (control −0.02): about what any direction of that length does, which says little."
    )
    page.get_by_role("region", name="In the model").locator("summary").click()
    assert "error of the dictionary" not in page.get_by_role("region", name="In the model").inner_text()


def test_what_was_not_looked_into_names_the_command_that_would(watched, run):
    features, path, explanations = run
    page = opened(watched, path, UNTRIED)
    assert in_the_model(page).startswith("Not tried in the model.")
    assert page.locator(".command").inner_text() == f"mistudio find-more --features {features.uri} --only {UNTRIED}"
    page = opened(watched, path, UNEXPLAINED)
    assert page.locator(".explanations").inner_text().startswith("Not explained.")
    expected = f"mistudio explain --features {features.uri} --only {UNEXPLAINED}"
    assert page.locator(".explanations .command").inner_text() == expected
    told = page.locator(".explanations").inner_text()
    assert told.endswith(", then mistudio score … and mistudio report ….")
    page = opened(watched, path, UNSCORED)
    expected = f"mistudio score --explanations {explanations.uri} --only {UNSCORED}"
    assert page.locator(".explanations .command").inner_text() == expected


def test_on_a_phone_the_notes_and_commands_are_no_wider_than_the_screen(watched, path):
    for feature in (DENSE, UNTRIED, UNEXPLAINED):
        page = watched(path, f"#feature={feature}", width=390, height=844)
        page.wait_for_selector(f"#detail[aria-label='Feature {feature}']")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
