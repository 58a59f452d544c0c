"""Routes, rules, tables and neighbours in the words that `ip` has for them: for people, never read back."""

from collections.abc import Collection

from services.plumber.model import Lookup, Neighbour, Route, Rule

_SHOWN = 3  # routes of a table that are named


def route(each: Route) -> str:
    if each.yields:
        return f"{each.destination} left to the next rule"
    via = f" via {each.gateway}" if each.gateway else ""
    return f"{each.destination}{via}" + (f" src {each.source}" if each.source else "")


def neighbour(each: Neighbour) -> str:
    return f"{each.address} at {each.mac}"


def rule(each: Rule) -> str:
    """Its number, what it matches, where it leads."""
    matches = (
        ("from", each.source),
        ("ipproto", each.protocol),
        ("sport", each.source_port),
        ("dport", each.destination_port),
    )
    words = [f"{name} {value}" for name, value in matches if value]
    words += [f"lookup {each.table}"] if each.table else []
    words += ["without its default route"] if each.no_default else []
    return " ".join([f"{each.priority} of IPv{each.family}:", *(words or ["everything"])])


def lookup(each: Lookup) -> str:
    """The rule, and the routes of its table."""
    return f"{rule(each.rule)} ({routes(each.routes) or 'no route'})"


def routes(found: Collection[Route]) -> str:
    ordered = sorted(found, key=lambda r: (r.yields, r))
    named = [route(each) for each in ordered[:_SHOWN]]
    more = [f"{len(ordered) - _SHOWN} more"] if len(ordered) > _SHOWN else []
    return ", ".join(named + more)
