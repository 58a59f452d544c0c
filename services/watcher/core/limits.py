"""What a spec may not hold although it is well written: too much of a thing, or prefixes of no network."""

import ipaddress

from schemas import values
from services.watcher.core.fields import BadField

# A grant holds all of them, a status two grants, and the bus takes a mebibyte.
MOST_ROUTES = 1000  # with those of policies
MOST_POLICIES = 256
MOST_PREFIXES = 256
MOST_NAMES = 256

# 169.254.0.0/16 is none of them: point-to-point links like it.
_SPECIAL: tuple[tuple[values.Prefix, str], ...] = tuple(
    (values.parse_prefix(prefix), what)
    for prefix, what in (
        ("0.0.0.0/8", "this network"),
        ("127.0.0.0/8", "loopback"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("224.0.0.0/3", "multicast and reserved"),
        ("::1/128", "loopback"),
        ("::/96", "IPv4-compatible"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)

_LINK_LOCAL = values.parse_prefix("169.254.0.0/16")


def no_more(count: int, most: int, field: str, what: str) -> None:
    """Raises BadField."""
    if count > most:
        raise BadField(
            field,
            f"{count} {what}, at most {most} are possible",
            "merge neighbours or write several NetworkServiceEndpoints",
        )


def pool_prefix(text: str) -> values.Prefix:
    """A prefix that addresses are given from. Raises ValueError."""
    prefix = values.parse_prefix(text)
    for special, what in _SPECIAL:
        if values.overlap(prefix, special):
            raise ValueError(f"prefix {text!r} overlaps {special} ({what})")
    return prefix


def destination(text: str) -> values.Prefix:
    """A prefix that a route leads to. A covering one, such as the default route, does no harm.

    Raises ValueError.
    """
    prefix = values.parse_prefix(text)
    for special, what in _SPECIAL:
        if values.overlap(prefix, special) and prefix.prefixlen >= special.prefixlen:
            raise ValueError(f"prefix {text!r} is inside {special} ({what})")
    return prefix


def server(text: str) -> values.Address:
    """An address that queries are sent to: at a loopback one the Pod would ask itself. Raises ValueError."""
    address = ipaddress.ip_address(text)
    host = values.parse_prefix(f"{address}/{address.max_prefixlen}")
    for special, what in _SPECIAL:
        if values.overlap(host, special):
            raise ValueError(f"address {text!r} is inside {special} ({what})")
    if values.overlap(host, _LINK_LOCAL):
        # A node's own DNS lives there (169.254.20.10): the cluster's, not a network service's.
        raise ValueError(f"address {text!r} is inside {_LINK_LOCAL} (link-local)")
    return address
