"""Annotations that nobody reads, and whose key is nearly one of ours."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from schemas.annotation import ANNOTATION, CONDITION
from services.watcher.model import CAPTURE_ANNOTATION, STATUS_ANNOTATION

_READ = (ANNOTATION, CAPTURE_ANNOTATION)
_OURS = frozenset({*_READ, CONDITION, STATUS_ANNOTATION})
_NEAR = 0.85  # `ns.networkservicemesh.io` is, `servicemesh.io` is not


def misspelt(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Such a key, and the one that was probably meant."""
    for key in sorted(set(keys) - _OURS):
        near = get_close_matches(key, _READ, 1, _NEAR)
        if not near and get_close_matches(key.partition("/")[0], [ANNOTATION], 1, _NEAR):
            near = [ANNOTATION]
        for meant in near:
            yield key, meant
