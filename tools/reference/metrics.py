"""Metrics, from the calls that make them."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.reference.table import code, table

_INTRO = """# Metrics

At `/metrics` of every service's health address (`NSM_HEALTH_ADDRESS`), in Prometheus' format.

"""

_KINDS = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
    "HistogramMetricFamily": "histogram",
}


class Metric(NamedTuple):
    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def page(root: Path) -> str:
    parts = [_INTRO]
    folders = [root / "services/_runtime", *sorted((root / "services").glob("[a-z]*"))]
    for folder in folders:
        rows = [_row(metric) for path in sorted(folder.rglob("*.py")) for metric in _of(path)]
        if rows:
            title = "Every service" if folder.name == "_runtime" else folder.name
            head = ["metric", "type", "labels", "meaning"]
            parts += [f"## {title}\n\n", table(head, sorted(rows))]
    return "".join(parts)


def _row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(code(label) for label in metric.labels)
    return code(metric.name), metric.kind, labels, metric.text


def _of(path: Path) -> Iterator[Metric]:
    tree = ast.parse(path.read_text())
    names = _lists(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        kind = _KINDS.get(node.func.id)
        if kind and node.args and isinstance(node.args[0], ast.Constant):
            yield _metric(kind, node, names)


def _metric(kind: str, call: ast.Call, names: dict[str, tuple[str, ...]]) -> Metric:
    name, text, *rest = call.args
    rest += [keyword.value for keyword in call.keywords if keyword.arg in ("labels", "labelnames")]
    labels: tuple[str, ...] = ()
    if rest:
        labels = names[rest[0].id] if isinstance(rest[0], ast.Name) else ast.literal_eval(rest[0])
    suffix = "_total" if kind == "counter" else ""
    return Metric(ast.literal_eval(name) + suffix, kind, tuple(labels), ast.literal_eval(text))


def _lists(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    """Lists of literals by the name they are given."""
    return {
        target.id: tuple(ast.literal_eval(node.value))
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List | ast.Tuple)
        for target in node.targets
        if isinstance(target, ast.Name)
        and all(isinstance(item, ast.Constant) for item in node.value.elts)
    }
