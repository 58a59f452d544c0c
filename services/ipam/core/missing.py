"""Why a client finds nobody for it, in words: no such name, a namespace that is closed to it, labels, rules.

The remedy is for who made the mistake: the author of the annotation, of the endpoint or of the rules.
"""

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache

from schemas import intent

MOST_NAMED = 5
MOST_COMPARED = 100  # with each takes time, and thousands of Pods may ask for what nobody offers

_TO_OFFER = "create a NetworkServiceEndpoint that names it"


def nobody(
    name: str, home: str, *, offered: Collection[str], elsewhere: Collection[str], is_own: bool
) -> str:
    """Nobody offers it. `offered`: what the namespace does; `elsewhere`: namespaces that do offer it."""
    hint = " (other namespaces do, but do not allow this one)" if elsewhere else ""
    remedy = (
        _correction(name, home, offered) if is_own else ""
    )  # what a foreign one has is not told
    return (
        f"no endpoint Pod of namespace {home} offers network service {name}{hint}; {remedy}{_TO_OFFER} "
        "and a running Pod that its podSelector matches, or see the events of the one that should"
    )


def not_allowed(name: str, home: str, own: str, *, is_known: bool, there: Iterable[str]) -> str:
    """The namespace behind the `@` has it not, or not for clients of `own`. `there`: where it is open to them."""
    if is_known:
        return (
            f"network service {name} of namespace {home} does not allow clients of namespace {own}; "
            f"add {own} to the allowedNamespaces of a NetworkService {name} in namespace {home}"
        )
    open_ = few((f"{name}@{each}" for each in there), none="")
    hint = f" (there is {open_})" if open_ else ""
    return (
        f"there is no network service {name} in namespace {home}, or no such namespace; correct what stands behind "
        f"the '@'{hint}, or {_TO_OFFER} there, and a NetworkService {name} with {own} in its allowedNamespaces"
    )


def unmatched(
    request_labels: Mapping[str, str],
    client_labels: Mapping[str, str],
    service: intent.NetworkService | None,
    rule: int | None,
) -> tuple[str, str]:
    """What is said of endpoint Pods that were not selected, and the remedy; none: that of the labels."""
    if service is None or not service.matches:
        return f"does not match {words(request_labels) or 'its labels'}", ""
    name = f"NetworkService {service.namespace}/{service.name}"
    if rule is not None:
        routes = service.matches[rule].routes
        text = f"is not selected by matches[{rule}] of {name}, which leads to {few(map(_route, routes))}"
        return text, _rule_remedy(routes, f"matches[{rule}] of {name}")
    wanted = few(words(match.source_selector) or "any" for match in service.matches)
    return (
        f"is not selected, as no match of {name} is for this client: they want {wanted}, it has {words(client_labels)}",
        f"correct matches[] of {name}, or the labels in the annotation",
    )


def _route(route: intent.Destination) -> str:
    to = words(route.destination_selector) or "any"
    return to if route.weight else f"{to} (weight 0: nobody)"


def _rule_remedy(routes: Collection[intent.Destination], rule: str) -> str:
    if not routes:
        return f"add a route to {rule}"
    if not any(route.weight for route in routes):
        return f"give a route of {rule} a weight above 0"
    weights = "" if all(route.weight for route in routes) else " or a weight of 0"
    return f"correct a destinationSelector{weights} in {rule}, or the labels of the endpoint"


def _correction(name: str, home: str, offered: Collection[str]) -> str:
    if not offered:
        return ""
    if len(offered) > MOST_COMPARED:
        return f"correct the name (namespace {home} offers {len(offered)} others), or "
    named = tuple(sorted(offered))
    near = _nearest(name, named)
    if near:
        return f"did you mean {near}? If not, "
    return f"correct the name (namespace {home} offers {few(named, by=', ')}), or "


@lru_cache(maxsize=256)
def _nearest(name: str, offered: tuple[str, ...]) -> str:
    return " or ".join(get_close_matches(name, offered))


def few(texts: Iterable[str], *, by: str = " or ", none: str = "nothing") -> str:
    """Some of them, each once, and how many more there are."""
    named = [*dict.fromkeys(texts)]
    left = len(named) - MOST_NAMED
    more = [f"{left} more"] if left > 0 else []
    return by.join([*named[:MOST_NAMED], *more]) or none


def words(labels: Mapping[str, str]) -> str:
    """Labels as an annotation has them."""
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
