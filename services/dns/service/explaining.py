"""What the health port answers about one Pod: what was said of it on the bus, and who is asked while it is captured."""

from collections.abc import Mapping

import msgspec

from schemas.state import Resolver
from schemas.subjects import ResolverKey
from services.dns.core.explaining import Explained
from services.dns.service.captures import Captured


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """`answers` is empty while the Pod is not captured: `resolver` says why."""

    resolver: Resolver
    answers: Explained | None


def pod_of(question: Mapping[str, str], node: str) -> ResolverKey:
    """The Pod that a question is about. Raises LookupError."""
    namespace, _, pod = question.get("pod", "").rpartition("/")
    try:
        key = ResolverKey(node, namespace or "default", pod)
        key.subject  # noqa: B018 checks the names
    except ValueError as exc:
        raise LookupError(f"pod={question.get('pod', '')!r}: {exc}; write NAMESPACE/NAME") from exc
    return key


def explanation(
    question: Mapping[str, str],
    said: Resolver | None,
    held: Captured | None,
    *,
    pod: str,
    is_granted: bool,
) -> Explanation:
    """Who would be asked for `name`. Raises LookupError if the Pod is none of ours, or that is no name.

    `is_granted`: it has connections, be it without DNS.
    """
    if said is None:
        reason = (
            f"no connection of pod {pod} provides DNS: its network services have none, or it opted out"
            if is_granted
            else f"nothing is granted to pod {pod} on this node, and no DNS with it"
        )
        raise LookupError(f"{reason}; see: nsm explain {pod}")
    try:
        found = held.explain(question.get("name", ".")) if held is not None else None
    except ValueError as exc:
        raise LookupError(str(exc)) from exc
    return Explanation(resolver=said, answers=found)
