"""A Pod's node is lost when neither Kubernetes nor its plumber hears of it: then nobody can tell what works there."""

from services.watcher.core.requests import Wanted
from services.watcher.wording import shorten

NODE_LOST = "NodeLost"
SHOWN = ("Unknown", NODE_LOST)  # status and reason of the condition

_NAMED_BYTES = 1024


def is_lost(wanted: Wanted, *, is_shown: bool, heard: bool | None) -> bool:
    """Whether the node of a Pod is lost. Where nobody listened long enough to know, it stays as it is shown."""
    if all(each.pod.node_ready for each in wanted.requests):
        return False
    return is_shown if heard is None else not heard


def message(node: str, connected: str) -> str:
    """What the condition says of what was connected."""
    return (
        f"node {node} is not Ready, or gone, and its plumber is silent: whether what was connected there still works "
        f"is not known: {shorten(connected, _NAMED_BYTES)}; see the node: kubectl describe node {node}"
    )
