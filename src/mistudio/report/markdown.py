"""The short Markdown summary of a report: metrics and lineage, for the pipelines dashboard."""

from collections.abc import Sequence

from mistudio.plain_text import in_markdown
from mistudio.report.interpretation import Interpretation
from mistudio.report.lineage import Node
from mistudio.report.metrics import Metrics, shown_metrics, write_metric
from mistudio.report.records import Counts


def render_markdown(
    title: str,
    metrics: Metrics,
    lineage: Sequence[Sequence[Node]],
    counts: Counts,
    interpretation: Interpretation | None = None,
) -> str:
    """Metrics as a table, how well explanations hold, then what the features were made from, source to result."""
    lines = [
        f"# {in_markdown(title)}",
        "",
        f"{counts.features:,} features, {counts.dead:,} of them never fired on the {counts.tokens:,} training tokens "
        "searched.",
        "",
        "| metric | value | meaning |",
        "| --- | ---: | --- |",
    ]
    for metric in shown_metrics(metrics):
        value = write_metric(metric.key, metrics[metric.key])
        lines.append(f"| {metric.label} | {value} | {in_markdown(metric.hint)} |")
    if interpretation is not None:
        lines += ["", "## Explanations", "", "| held-out documents | |", "| --- | ---: |"]
        lines += [f"| features explained | {interpretation.explained:,} of {interpretation.num_features:,} |"]
        lines += [f"| {in_markdown(name)} | {value} |" for name, value in interpretation.facts()]
    lines += ["", "## Lineage", "", "| what | where | digest | figures |", "| --- | --- | --- | --- |"]
    for column in lineage:
        for node in column:
            figures = ", ".join(f"{name} {value}" for name, value in node.key_figures) or node.note
            title, name = in_markdown(node.title), in_markdown(node.name)
            lines.append(f"| {title} | {name} | `{node.short_digest}` | {in_markdown(figures)} |")
    return "\n".join(lines) + "\n"
