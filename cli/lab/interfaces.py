"""`nsm lab interfaces`: a Pod's interfaces, routes and rules as its kernel has them; needs no tools in the Pod."""

import socket
import sys
from typing import Annotated, Any

import typer

from cli import labs, pods
from cli.options import Output
from cli.output import OutputFormat, few, print_json, print_table
from services._node import encoding, links
from services._node.decoding import Rule

_LINK_LOCAL = "fe80::/64"  # every interface has that route: only -o json shows it
_MAIN, _LOCAL = 254, 255  # tables; in the latter the kernel keeps the Pod's own addresses
_KERNEL = 2  # who made a rule


def interfaces(
    pod: Annotated[str, typer.Argument(metavar=pods.METAVAR, help="Whose.", show_default=False)],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Pod's namespace.")
    ] = "default",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print interfaces, addresses, routes of all tables and rules of a Pod."""
    inside = labs.Inside(*pods.place_of(pod, namespace))

    def show() -> int:
        inside.enter()
        found = read()
        if output is OutputFormat.JSON:
            print_json(found)
        else:
            _print(found)
        return 0

    sys.exit(labs.in_child(show))


def read() -> list[dict[str, Any]]:
    """Every interface of the namespace we are in, with addresses, routes through it and rules that lead there.

    What a table of an interface leaves to the next rule is among its routes, as `yields`.
    """
    with links.Netlink() as netlink:
        found = {
            link["index"]: _interface(link) for link in netlink.dump(links.link(links.GETLINK))
        }
        for address in netlink.dump(links.address(links.GETADDR, index=0)):
            text = f"{address.get_attr('IFA_ADDRESS')}/{address['prefixlen']}"
            # The kernel makes link-local ones by itself; nobody granted them.
            field = "link_local" if text.startswith("fe80:") else "addresses"
            found[address["index"]][field].append(text)
        for family in (socket.AF_INET, socket.AF_INET6):
            routes = netlink.dump(links.route(links.GETROUTE, family=family, table=0))
            rules = [rule for rule in netlink.rules() if rule.family == family]
            _add_routes(found, [r for r in routes if _table(r) != _LOCAL], family)
            _add_rules(found, [rule for rule in rules if rule.owner != _KERNEL], family)
    return list(found.values())


def _add_routes(found: dict[int, dict[str, Any]], routes: list[Any], family: int) -> None:
    tables: dict[int, set[int]] = {}
    for route in routes:
        index = route.get_attr("RTA_OIF")
        if index in found:
            found[index]["routes"].append(_route(route, family))
            tables.setdefault(_table(route), set()).add(index)
    for route in routes:
        if route["type"] == encoding.THROW:
            for index in tables.get(_table(route), ()):
                found[index]["routes"].append(_route(route, family))


def _add_rules(found: dict[int, dict[str, Any]], rules: list[Rule], family: int) -> None:
    version = 4 if family == socket.AF_INET else 6
    for interface in found.values():
        tables = {route["table"] for route in interface["routes"] if route["family"] == version}
        interface["rules"] += [_rule(rule, version) for rule in rules if rule.table in tables]


def _interface(link: Any) -> dict[str, Any]:
    return {
        "name": link.get_attr("IFLA_IFNAME"),
        "index": link["index"],
        "state": (link.get_attr("IFLA_OPERSTATE") or "").lower(),
        "mac": link.get_attr("IFLA_ADDRESS") or "",
        "mtu": link.get_attr("IFLA_MTU"),
        "alias": link.get_attr("IFLA_IFALIAS") or "",
        "addresses": [],
        "link_local": [],
        "routes": [],
        "rules": [],
    }


def _table(route: Any) -> int:
    return int(route.get_attr("RTA_TABLE") or route["table"])


def _rule(rule: Rule, version: int) -> dict[str, Any]:
    return {**rule._asdict(), "family": version}


def _route(route: Any, family: int) -> dict[str, Any]:
    everything = "0.0.0.0" if family == socket.AF_INET else "::"  # noqa: S104 a destination
    destination = f"{route.get_attr('RTA_DST') or everything}/{route['dst_len']}"
    return {
        "destination": destination,
        "via": route.get_attr("RTA_GATEWAY") or "",
        "source": route.get_attr("RTA_PREFSRC") or "",
        "family": 4 if family == socket.AF_INET else 6,
        "table": _table(route),
        "yields": route["type"] == encoding.THROW,
    }


def _print(found: list[dict[str, Any]]) -> None:
    rows = []
    for interface in found:
        routes = _route_texts(interface["routes"])
        cells = [
            interface["name"],
            interface["state"],
            str(interface["mtu"]),
            interface["mac"] or "-",
        ]
        height = max(len(interface["addresses"]), len(routes), 1)
        rows += [
            [
                *(cells if line == 0 else [""] * len(cells)),
                _at(interface["addresses"], line),
                _at(routes, line),
            ]
            for line in range(height)
        ]
    print_table(["INTERFACE", "STATE", "MTU", "MAC", "ADDRESSES", "ROUTES"], rows)
    rules = {_rule_cells(rule): None for each in found for rule in each["rules"]}
    if rules:
        print()
        print_table(["RULE", "FAMILY", "FOR", "TABLE"], sorted(rules, key=lambda c: int(c[0])))


def _route_texts(routes: list[dict[str, Any]]) -> list[str]:
    ordered = sorted(routes, key=lambda route: -1 if route["table"] == _MAIN else route["table"])
    told = [_route_text(r) for r in ordered if not r["yields"] and r["destination"] != _LINK_LOCAL]
    staying: dict[int, list[str]] = {}
    for route in routes:
        if route["yields"]:
            staying.setdefault(route["table"], []).append(route["destination"])
    for table, prefixes in staying.items():
        told.append(f"stays on the Pod's own interface: {few(prefixes)}{_in_table(table)}")
    return told


def _route_text(route: dict[str, Any]) -> str:
    via = f" via {route['via']}" if route["via"] else ""
    source = f" from {route['source']}" if route["source"] else ""
    return f"{route['destination']}{via}{source}{_in_table(route['table'])}"


def _in_table(table: int) -> str:
    return "" if table == _MAIN else f" (table {table})"


def _rule_cells(rule: dict[str, Any]) -> tuple[str, ...]:
    match = [
        f"{words} {rule[field]}"
        for field, words in (
            ("source", "from"),
            ("protocol", "protocol"),
            ("source_port", "from port"),
            ("destination_port", "to port"),
        )
        if rule[field]
    ]
    told = " ".join(match) or "everything"
    table = "main" if rule["table"] == _MAIN else str(rule["table"])
    not_default = ", but not its default route" if rule["no_default"] else ""
    return str(rule["priority"]), f"IPv{rule['family']}", told, table + not_default


def _at(texts: list[str], line: int) -> str:
    return texts[line] if line < len(texts) else ""
