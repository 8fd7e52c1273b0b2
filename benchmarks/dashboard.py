"""How fast the dashboard of 10,000 features (10 contexts of 32 tokens each) starts and filters.

Run as ``python -m benchmarks.dashboard`` in the root of the checkout; needs playwright and a Chromium. Times
are taken inside the page, by its own clock, up to the frame that shows the result; the worst of several
tries counts. Prints a table and writes ``build/bench/dashboard.json``.
"""

import json
import os
import platform
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser
from rich.console import Console
from rich.table import Table

from mistudio.artifacts import open_store
from mistudio.report import report
from tests.browser.chromium import open_browser
from tests.support.fake_run import publish_run

NUM_FEATURES = 10_000
TRIES = 5
QUERIES = ("s", "se", "self", "1", "42", " the", "no such token", "")
LIMIT_MS = 1000.0
OUTPUT = Path("build/bench/dashboard.json")

# The clock starts with the navigation; a row is on screen in the frame after the one that finds it.
WATCH_FIRST_ROW = """
const look = () => document.querySelector('.row')
  ? requestAnimationFrame(() => { window.firstRowMs = performance.now(); })
  : requestAnimationFrame(look);
requestAnimationFrame(look);
"""
TYPE_QUERY = """
(query) => new Promise((done) => {
  const search = document.getElementById('search');
  const start = performance.now();
  search.value = query;
  search.dispatchEvent(new Event('input', { bubbles: true }));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})
"""
SORT = """
(key) => new Promise((done) => {
  const start = performance.now();
  document.querySelector(`[data-key=${key}]`).click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})
"""
OPEN_LAST = """
() => new Promise((done) => {
  const start = performance.now();
  const look = () => document.querySelector("#detail[aria-label='Feature 9999']")
    ? requestAnimationFrame(() => done(performance.now() - start))
    : requestAnimationFrame(look);
  location.hash = '#feature=9999';
  look();
})
"""


def measure(browser: Browser, url: str) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"load": [], "filter": [], "sort": [], "open": [], "whole": []}
    for _ in range(TRIES):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(WATCH_FIRST_ROW)
        page.goto(url)
        page.wait_for_function("window.firstRowMs")
        times["load"].append(page.evaluate("window.firstRowMs"))
        times["whole"].append(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        times["filter"] += [page.evaluate(TYPE_QUERY, query) for query in QUERIES]
        times["sort"] += [page.evaluate(SORT, key) for key in ("density", "max", "feature")]
        times["open"].append(page.evaluate(OPEN_LAST))
        page.close()
    return times


def rows_of(times: dict[str, list[float]], page_bytes: int, machine: str) -> list[dict[str, object]]:
    names = {
        "load": "navigation start to list on screen",
        "filter": "keystroke in the search to new list on screen",
        "sort": "click on a column to new list on screen",
        "open": "first look at a feature to its contexts on screen",
    }
    rows: list[dict[str, object]] = []
    for key, what in names.items():
        worst = max(times[key])
        rows.append({"what": f"{what}, worst", "value": round(worst, 1), "unit": "ms", "to_reach": LIMIT_MS})
        rows[-1]["holds"] = worst < LIMIT_MS
        median = round(statistics.median(times[key]), 1)
        rows.append({"what": f"{what}, median", "value": median, "unit": "ms", "to_reach": None, "holds": None})
    whole = round(statistics.median(times["whole"]), 1)
    rows.append({"what": "whole file parsed, median", "value": whole, "unit": "ms", "to_reach": None, "holds": None})
    size = round(page_bytes / 1e6, 2)
    rows.append({"what": "size of the page", "value": size, "unit": "MB", "to_reach": None, "holds": None})
    return [{**row, "machine": machine} for row in rows]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        store = open_store(folder)
        produced = report(store, *publish_run(store, num_features=NUM_FEATURES))
        path = produced.artifact.file("dashboard.html")
        machine = f"{os.cpu_count()} cores {platform.machine()}, Chromium {browser.version}"
        rows = rows_of(measure(browser, path.as_uri()), path.stat().st_size, machine)
    table = Table("what", "value", "unit", "to reach", "holds", title=f"{NUM_FEATURES:,} features, {machine}")
    for row in rows:
        limit = "" if row["to_reach"] is None else f"< {row['to_reach']:g}"
        holds = "" if row["holds"] is None else str(row["holds"])
        table.add_row(str(row["what"]), str(row["value"]), str(row["unit"]), limit, holds)
    Console(width=120).print(table)
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
