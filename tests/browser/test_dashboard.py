import html
import re

import pytest

from mistudio.artifacts import open_store
from mistudio.report import ReportConfig, report
from tests.support.fake_run import make_tables, publish_run, publish_tables

pytest.importorskip("playwright")
from tests.browser.chromium import find_chromium  # noqa: E402 -- needs playwright

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs chromium (apt-get install chromium)")

DEAD = [4, 300]
LIST_READY_MS = "performance.getEntriesByName('list-ready')[0].startTime"  # since navigation
FILTER_MS = """() => {
  const [search, start] = [document.getElementById('search'), performance.now()];
  search.value = 'self';
  search.dispatchEvent(new Event('input', { bubbles: true }));
  return performance.now() - start;
}"""
# The page was drawn twice: it knows its size, and what it opened because of that is open.
DRAWN = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100))))"""
EVIL = '<img src=x onerror="window.evil=1"></script><script>window.evil=1</script>'


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The tables and the page of 450 features; feature 2 has awkward tokens, 4 and 300 are dead."""
    store = open_store(str(tmp_path_factory.mktemp("small")))
    feature_rows, context_rows = make_tables(450, 6, set(DEAD), 32, True)
    awkward = [row for row in context_rows if row["feature"] == 2]
    for row in awkward:
        row["tokens"] = ["<s>", EVIL, "\n", "\n", "    ", "needle", "\u202eabc", "", " the\tend\n"]
        row["values"] = [float("nan"), 1.0, 0.0, 0.0, 0.5, row["value"], 0.0, 0.0, 0.0]
        row["peak"] = 5
    feature_rows[2]["promoted_tokens"][0] = EVIL
    produced = report(store, *publish_tables(store, feature_rows, context_rows), ReportConfig(title=EVIL))
    return feature_rows, context_rows, produced.artifact.file("dashboard.html")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """The page of 3,000 features with 10 contexts of 32 tokens each."""
    store = open_store(str(tmp_path_factory.mktemp("large")))
    return report(store, *publish_run(store, num_features=3000)).artifact.file("dashboard.html")


def listed(page) -> list[int]:
    return [int(text) for text in page.locator(".row .number").all_inner_texts()]


def feature_is(page, feature: int) -> None:
    page.wait_for_selector(f"#detail[aria-label='Feature {feature}']")


def test_the_first_feature_is_open_and_only_its_block_is_decompressed(watched, small):
    page = watched(small[2])
    feature_is(page, 0)
    assert page.locator("script[id^=block-]").evaluate_all("all => all.map(one => one.id)") == ["block-1", "block-2"]
    page.locator("#search").fill("430")
    page.locator(".row").first.click()
    feature_is(page, 430)
    assert page.locator("script[id^=block-]").evaluate_all("all => all.map(one => one.id)") == ["block-1"]


def test_thousands_of_features_draw_a_screenful_of_rows(watched, large):
    page = watched(large)
    feature_is(page, 0)
    assert page.locator("#shown").inner_text() == "3,000 of 3,000 features"
    assert page.locator(".row").count() < 60
    assert page.locator("*").count() < 1500
    page.locator("#rows").evaluate("rows => rows.scrollTop = rows.scrollHeight")
    page.wait_for_selector("#row-2999")
    assert page.locator(".row").count() < 60
    assert page.locator("script[id^=block-]").count() == 14
    print(f"3,000 features: list ready {page.evaluate(LIST_READY_MS):.0f} ms, filter {page.evaluate(FILTER_MS):.0f} ms")


def test_sorting_orders_by_the_column_and_turns_round_on_the_second_click(watched, small):
    page = watched(small[2])
    rows = [row for row in small[0] if row["count"]]
    for label, key in (("Density", "density"), ("Mean", "mean"), ("Max", "max"), ("Tokens", "count")):
        expected = [row["feature"] for row in sorted(rows, key=lambda row: -row[key])]
        page.locator("#columns").get_by_role("button", name=label).click()
        assert listed(page)[:8] == expected[:8]
        assert page.get_by_role("button", name=f"{label}, falling").get_attribute("aria-pressed") == "true"
        page.locator("#columns").get_by_role("button", name=label).click()
        assert [small[0][feature][key] for feature in listed(page)[:8]] == sorted(row[key] for row in rows)[:8]


def test_search_finds_numbers_and_tokens_and_can_be_cleared(watched, small):
    feature_rows, context_rows, path = small
    page = watched(path)
    page.locator("#search").fill("44")
    assert set(listed(page)) >= {44, 440, 449}
    page.locator("#search").fill("NEEDLE")
    assert listed(page) == [2]
    page.locator("#search").fill("self")
    known = {row["feature"] for row in context_rows if "self" in row["tokens"][row["peak"]].lower()}
    known |= {row["feature"] for row in feature_rows if "self" in "\n".join(row["promoted_tokens"][:6]).lower()}
    assert page.locator("#shown").inner_text() == f"{len(known - set(DEAD))} of 450 features"
    page.locator("#search").fill("no such token anywhere")
    assert listed(page) == []
    page.get_by_role("button", name="Clear filters").click()
    assert page.locator("#shown").inner_text() == "448 of 450 features"


def test_dead_features_are_hidden_until_asked_for(watched, small):
    page = watched(small[2])
    assert 4 not in listed(page)
    page.get_by_label("Hide dead").uncheck()
    page.locator("#rows").evaluate("rows => rows.scrollTop = rows.scrollHeight")  # they are worth nothing: at the end
    page.locator("#row-4").click()
    feature_is(page, 4)
    assert "never fired" in page.locator("#detail").inner_text()


def test_the_density_range_filters_the_list(watched, small):
    page = watched(small[2])
    page.get_by_label("Lowest density").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.get_by_label("Highest density").focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    edges, counts = page.evaluate(
        "() => Object.values(JSON.parse(document.getElementById('index').textContent).density_histogram)"
    )
    low, high = 10 ** edges[8], 10 ** edges[-7]
    kept = [row["feature"] for row in small[0] if low <= row["density"] <= high]
    assert 0 < len(kept) == sum(counts[8:-6]) < 448
    assert page.locator("#shown").inner_text() == f"{len(kept)} of 450 features"
    assert listed(page) == kept[: len(listed(page))]
    assert page.locator("#density-chart .bar.off").count() == 14


def test_keys_turn_features_search_and_leave_the_search(watched, small):
    page = watched(small[2])
    feature_is(page, 0)
    for key, feature in (("j", 1), ("ArrowRight", 2), ("k", 1), ("ArrowLeft", 0), ("k", 0)):
        page.keyboard.press(key)
        feature_is(page, feature)
    page.keyboard.press("/")
    page.keyboard.type("jk/needle")
    assert page.locator("#search").input_value() == "jk/needle"
    feature_is(page, 0)
    page.locator("#search").fill("440")
    page.keyboard.press("Enter")
    feature_is(page, 440)
    page.locator("#search").fill("")
    page.locator("#rows").focus()
    page.keyboard.press("ArrowDown")
    feature_is(page, 441)
    assert page.locator("#rows").get_attribute("aria-activedescendant") == "row-441"
    page.keyboard.press("PageDown")
    page.keyboard.press("PageDown")
    feature_is(page, 449)
    assert page.get_by_role("button", name="Next feature").is_disabled()
    page.get_by_role("button", name="Previous feature").click()
    feature_is(page, 448)


def test_tokens_show_their_value_on_hover_and_the_peak_is_outlined(watched, small):
    _, context_rows, path = small
    page = watched(path, "#feature=2")
    feature_is(page, 2)
    value = next(row["value"] for row in context_rows if row["feature"] == 2)
    tokens = page.locator(".tokens").first.locator(".token")
    peak = page.locator(".tokens").first.locator(".token.peak")
    assert peak.inner_text() == "needle"
    assert float(peak.get_attribute("title")) == pytest.approx(value, rel=5e-3)
    assert tokens.nth(0).get_attribute("title") == "not captured"
    assert tokens.nth(2).get_attribute("title") == "0"
    peak.hover()
    assert page.locator(".readout").first.inner_text() == f'"needle"  {peak.get_attribute("title")}'

    def alpha(token) -> float:
        color = token.evaluate("token => getComputedStyle(token).backgroundColor")
        return float(re.split(r"[,/]", color.rstrip(")"))[-1])

    assert alpha(peak) > alpha(tokens.nth(4)) > 0
    assert alpha(tokens.nth(2)) == 0


def test_text_that_cannot_be_seen_gets_signs_and_markup_stays_text(watched, small):
    page = watched(small[2], "#feature=2")
    feature_is(page, 2)
    texts = page.locator(".tokens").first.locator(".token").all_text_contents()
    assert texts == ["<s>", EVIL, "↵", "↵\n", "····", "needle", "‹202e›abc", "∅", " the⇥\tend↵"]
    assert page.locator(".logits .text").first.text_content() == EVIL.replace(" ", "·")
    assert page.locator("h1").inner_text() == EVIL
    assert page.evaluate("window.evil") is None
    assert page.locator("img").count() == 0


def test_the_address_names_the_feature_and_opens_it(watched, small):
    page = watched(small[2], "#feature=441")
    feature_is(page, 441)
    page.keyboard.press("j")
    feature_is(page, 442)
    assert page.url.endswith("#feature=442")
    page.evaluate("location.hash = '#feature=3'")
    feature_is(page, 3)
    page.evaluate("location.hash = '#feature=99999'")
    feature_is(page, 3)


def test_a_box_of_the_lineage_opens_its_config(watched, small):
    page = watched(small[2])
    box = page.locator(".node", has_text="SAE")
    assert not page.get_by_text("learning_rate").is_visible()
    box.click()
    assert page.get_by_text("learning_rate").is_visible()
    assert box.get_attribute("aria-expanded") == "true"
    page.locator(".node", has_text="documents").click()
    assert not page.get_by_text("learning_rate").is_visible()
    assert page.get_by_text("context_length").is_visible()


def test_a_page_works_in_the_sandboxed_frame_of_the_pipelines_dashboard(watched, small, tmp_path):
    content = html.escape(small[2].read_text(encoding="utf-8"), quote=True)
    outer = tmp_path / "outer.html"
    outer.write_text(
        f"<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>"
        f'<iframe sandbox="allow-scripts" width=1200 height=800 srcdoc="{content}"></iframe>',
        encoding="utf-8",
    )
    frame = watched(outer).frame_locator("iframe")
    frame.locator("#detail[aria-label='Feature 0']").wait_for()
    frame.locator("#search").fill("440")
    frame.locator(".row").first.click()
    frame.locator("#detail[aria-label='Feature 440']").wait_for()
    assert frame.locator(".tokens .token.peak").count() == 6


def test_on_a_phone_list_and_feature_take_turns(watched, small):
    page = watched(small[2], width=390, height=844)
    assert not page.locator("#detail").is_visible()
    page.locator("#row-3").click()
    feature_is(page, 3)
    assert not page.locator("#rows").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="← List").click()
    assert page.locator("#rows").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_page_that_becomes_wide_opens_a_feature_and_leaves_one_that_is_open(watched, small):
    page = watched(small[2], width=390, height=844)
    assert page.locator("#detail").get_attribute("aria-label") == "Feature"
    page.set_viewport_size({"width": 1280, "height": 900})
    feature_is(page, 0)
    page.locator("#row-3").click()
    feature_is(page, 3)
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(DRAWN)
    assert page.locator("#detail").get_attribute("aria-label") == "Feature 3"


def test_every_control_has_a_name(watched, small):
    page = watched(small[2])
    feature_is(page, 0)
    unnamed = page.locator("button, input, [role=listbox], [role=img]").evaluate_all(
        "all => all.filter(one => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length))"
        ".map(one => one.outerHTML)"
    )
    assert unnamed == []


def test_text_has_enough_contrast_in_light_and_in_dark(watched, small):
    page = watched(small[2], "#feature=1")
    feature_is(page, 1)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colors = page.evaluate(
            "() => ['--text', '--quiet', '--accent', '--page', '--panel', '--sunken', '--selected'].map("
            "name => getComputedStyle(document.documentElement).getPropertyValue(name).trim())"
        )
        for ink in colors[:3]:
            for paper in colors[3:]:
                assert contrast(ink, paper) >= 4.5, (scheme, ink, paper)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two #rrggbb colours, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
