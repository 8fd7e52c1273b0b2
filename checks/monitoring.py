"""Monitoring: rules by promtool, dashboards by Grafana's schema, and no metric that nobody exports."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml
from prometheus_client.parser import text_string_to_metric_families

from checks.rendering import MANIFESTS
from checks.tools import ROOT, find, run, shared

# What Prometheus adds to the samples of a pod, and what PodMonitors take over.
_OF_TARGETS = frozenset({"namespace", "pod", "job", "instance", "container", "serving_kserve_io_inferenceservice"})
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
_LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPED = re.compile(r"\bby\s*\(([^)]*)\)")
FOLDER = MANIFESTS / "components" / "monitoring"
EXPORTED = ROOT / "checks" / "exported.json"
_PROMTOOL = "install the package prometheus"
_OPERATORS = ("and", "or", "unless", "atan2", "bool", "offset", "start", "end", "inf", "nan")
_MATCHING = ("by", "without", "on", "ignoring", "group_left", "group_right")
_WORDS = frozenset((*_OPERATORS, *_MATCHING))
_NAME = re.compile(r"(?<![\w:])([a-zA-Z_:][\w:]*)(?!\w|\s*\()")
_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"")
_LABELS = re.compile(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)")


def look_rules() -> tuple[str, Sequence[str]]:
    """The rules, and their tests."""
    program = find("promtool", _PROMTOOL)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rules.json").write_text(json.dumps(groups()))
        shutil.copy(FOLDER / "rules_test.yaml", folder)
        checked = run([program, "check", "rules", "rules.json"], folder=Path(folder))
        tested = run([program, "test", "rules", "rules_test.yaml"], folder=Path(folder))
    problems = [done.stdout + done.stderr for done in (checked, tested) if done.returncode]
    problems += [f"no test raises {name}" for name in sorted(alerts() - _tested())]
    return f"{len(alerts())} alerts", problems


def groups() -> Mapping[str, Any]:
    """The rules as Prometheus reads them."""
    found: Mapping[str, Any] = yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"]
    return found


def alerts() -> set[str]:
    """Names of all alerts."""
    return {rule["alert"] for group in groups()["groups"] for rule in group["rules"] if "alert" in rule}


def _tested() -> set[str]:
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    return {each["alertname"] for test in tests for each in test.get("alert_rule_test", ()) if each["exp_alerts"]}


def look_dashboards() -> tuple[str, Sequence[str]]:
    """Dashboards against Grafana's schema, and their queries as promtool reads them."""
    schema = json.loads(shared("data", "grafana", "dashboard-main.jsonschema.json").read_text())
    validator = jsonschema_rs.validator_for(schema)
    problems = [
        f"{name}: {'.'.join(map(str, error.instance_path))}: {error.message}"
        for name, board in dashboards().items()
        for error in validator.iter_errors(board)
    ]
    return f"{len(dashboards())} dashboards", problems


def look_queries() -> tuple[str, Sequence[str]]:
    """The queries of dashboards, parsed by promtool."""
    program = find("promtool", _PROMTOOL)
    queries = list(_panel_queries())
    rules = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(queries)]
    with tempfile.TemporaryDirectory() as folder:
        content = {"groups": [{"name": "queries", "rules": rules}]}
        (Path(folder) / "queries.json").write_text(json.dumps(content))
        done = run([program, "check", "rules", "queries.json"], folder=Path(folder))
    return f"{len(queries)} queries", [done.stdout + done.stderr] if done.returncode else []


def dashboards() -> dict[str, Any]:
    """The dashboards by their files' names."""
    return {path.name: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}


def _panel_queries() -> Iterator[tuple[str, str]]:
    for name, board in dashboards().items():
        for panel in board["panels"]:
            yield from ((f"{name}: {panel['title']}", target["expr"]) for target in panel.get("targets", ()))


def queries() -> Iterator[tuple[str, str]]:
    """Every query with its place: alerts, records, panels, variables of dashboards, scaling."""
    for group in groups()["groups"]:
        yield from ((f"rules: {rule.get('alert') or rule['record']}", rule["expr"]) for rule in group["rules"])
    yield from _panel_queries()
    for name, board in dashboards().items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield f"{name}: {variable['name']}", variable["query"].removeprefix("label_values(").partition(",")[0]
    scaling = yaml.safe_load((MANIFESTS / "components" / "autoscaling" / "scaledobject.yaml").read_text())
    yield from (("scaling", trigger["metadata"]["query"]) for trigger in scaling["spec"]["triggers"])


def names_in(query: str) -> set[str]:
    """The metrics that a query names."""
    bare = _LABELS.sub(" ", _QUOTED.sub('""', query))
    return {name for name in _NAME.findall(bare) if name not in _WORDS}


def metric_problems(exported: Iterable[str]) -> tuple[str, list[str]]:
    """Metrics that rules and dashboards name, and nobody exports.

    Args:
        exported: names of those of the project's own servers, as a server's ``/metrics`` has them.
    """
    others = json.loads(EXPORTED.read_text())
    own = {rule["record"] for group in groups()["groups"] for rule in group["rules"] if "record" in rule}
    known = set(exported) | own | {name for each in others.values() for name in each["metrics"]}
    named = list(queries())
    problems = [
        f"{place} names {name}, which nothing exports"
        for place, query in named
        for name in sorted(names_in(query) - known)
    ]
    return f"{len(named)} queries", problems


def label_problems(labels: Mapping[str, Set[str]]) -> list[str]:
    """Labels that queries ask own metrics for, and that those do not have.

    Args:
        labels: of each metric that a server has samples of (`labels_by`).
    """
    problems = []
    for place, query in queries():
        own = [name for name in names_in(query) if name in labels]
        for name, selector in _SELECTOR.findall(query):
            asked = set(_LABEL.findall(selector))
            if name in labels and (unknown := asked - labels[name] - _OF_TARGETS):
                problems.append(f"{place} asks {name} for {', '.join(sorted(unknown))}, which it has not")
        grouped = {word.strip() for words in _GROUPED.findall(query) for word in words.split(",")}
        known = {label for name in own for label in labels[name]} | _OF_TARGETS
        if own and set(own) == names_in(query) and grouped - known:
            problems.append(f"{place} groups by {', '.join(sorted(grouped - known))}, which {own[0]} has not")
    return problems


def labels_by(text: str) -> dict[str, set[str]]:
    """Labels of the samples in what a server answers at ``/metrics``."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def exported_by(text: str) -> set[str]:
    """Names of samples in what a server answers at ``/metrics``, those without a sample yet included."""
    names: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names.add(name)
            if kind == "histogram":
                names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")}
    return names
