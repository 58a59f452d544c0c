"""`nsm lab interfaces`: a Pod's interfaces as its kernel has them; needs no tools in the Pod."""

import socket
import sys
from typing import Annotated, Any

import typer

from cli import labs
from cli.output import OutputFormat, print_json, print_table
from services._node import links

_LINK_LOCAL = "fe80::/64"  # every interface has that route: only -o json shows it


def interfaces(
    pod: Annotated[str, typer.Argument(help="Name of a Pod.", show_default=False)],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Pod's namespace.")
    ] = "default",
    output: Annotated[OutputFormat, typer.Option("--output", "-o")] = OutputFormat.TABLE,
) -> None:
    """Print interfaces, addresses and routes of a Pod."""
    inside = labs.Inside(namespace, pod)

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
    """Every interface of the namespace we are in, with addresses and routes through it."""
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
            for route in netlink.dump(links.route(links.GETROUTE, family=family)):
                index = route.get_attr("RTA_OIF")
                if index in found:
                    found[index]["routes"].append(_route(route, family))
    return list(found.values())


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
    }


def _route(route: Any, family: int) -> dict[str, str]:
    everything = "0.0.0.0" if family == socket.AF_INET else "::"  # noqa: S104 a destination
    destination = f"{route.get_attr('RTA_DST') or everything}/{route['dst_len']}"
    return {
        "destination": destination,
        "via": route.get_attr("RTA_GATEWAY") or "",
        "source": route.get_attr("RTA_PREFSRC") or "",
    }


def _print(found: list[dict[str, Any]]) -> None:
    rows = []
    for interface in found:
        routes = [_route_text(r) for r in interface["routes"] if r["destination"] != _LINK_LOCAL]
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


def _route_text(route: dict[str, str]) -> str:
    via = f" via {route['via']}" if route["via"] else ""
    source = f" from {route['source']}" if route["source"] else ""
    return f"{route['destination']}{via}{source}"


def _at(texts: list[str], line: int) -> str:
    return texts[line] if line < len(texts) else ""
