"""Labels, selectors and patterns that could never match anything: who reads them would wait for nothing.

Raises BadField.
"""

import re
from collections.abc import Mapping

from schemas import values
from services.watcher.core import forms
from services.watcher.core.fields import BadField

_PATTERN = re.compile(r"[a-z0-9*?\[\]!-]+")  # of namespaces, as fnmatch has them


def check_labels(labels: Mapping[str, str], field: str) -> None:
    """Labels of endpoints, and selectors of clients and endpoints."""
    for key, value in labels.items():
        if "{{" in key + value:
            raise BadField(
                f"{field}[{key}]",
                f"{value!r} is a template, and none is filled in here",
                "leave it out: of the endpoints left, one on the client's node is preferred anyway",
            )
        _check_key(key, f"{field}[{key}]")
        # Rules also match podName and nodeName, which may be longer than a label.
        if not values.is_label_value(value) and not values.is_object_name(value):
            raise BadField(
                f"{field}[{key}]", f"{value!r} is no label value", values.LABEL_VALUE_REMEDY
            )


def check_selector(selector: forms.Selector) -> None:
    """The selector of Pods."""
    check_labels(selector.match_labels or {}, "podSelector.matchLabels")
    for at, each in enumerate(selector.match_expressions or ()):
        _check_key(each.key, f"podSelector.matchExpressions[{at}].key")


def check_patterns(patterns: tuple[str, ...], field: str) -> None:
    """Patterns of namespaces."""
    for at, pattern in enumerate(patterns):
        if _PATTERN.fullmatch(pattern) is None:
            raise BadField(
                f"{field}[{at}]",
                f"{pattern!r} matches no namespace",
                "use lower case letters, digits and '-', as namespaces do, and '*' for any of them",
            )


def _check_key(key: str, field: str) -> None:
    if not values.is_label_key(key):
        raise BadField(field, f"{key!r} is no label key", values.LABEL_KEY_REMEDY)
