"""Small values that every service speaks: names, prefixes, addresses. Checked here once, trusted after.

Inside the services prefixes and addresses are `ipaddress` objects; on the bus they are text.
"""

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Prefix = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NAMESPACE = re.compile(_LABEL)
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,14}")

# How each is written, for who wrote it otherwise.
LABEL_VALUE_REMEDY = (
    "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"
)
LABEL_KEY_REMEDY = f"{LABEL_VALUE_REMEDY}; a domain and '/' may stand before it"
NAMESPACE_REMEDY = (
    "use at most 63 lower case letters, digits and '-', with a letter or digit at both ends"
)
NETWORK_SERVICE_REMEDY = (
    "use at most 63 lower case letters, digits, '-' and '.', "
    "with a letter or digit at both ends and beside each '.'"
)

# `all` and `default` are directories of /proc/sys/net/*/conf: sysctl could not tell such a link apart.
RESERVED_INTERFACES = frozenset({"lo", "eth0", "all", "default"})


def is_object_name(text: str) -> bool:
    """Whether `text` is a Kubernetes object name (RFC 1123 subdomain, at most 253 characters)."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_namespace_name(text: str) -> bool:
    """Whether `text` is a Kubernetes namespace name (RFC 1123 label, at most 63 characters)."""
    return _NAMESPACE.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether `text` is the key of a Kubernetes label: `app` or `example.com/app`."""
    prefix, slash, name = text.rpartition("/")
    if slash and not is_object_name(prefix):
        return False
    return _LABEL_NAME.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """Whether `text` is the value of a Kubernetes label; the empty one is."""
    return not text or _LABEL_NAME.fullmatch(text) is not None


def interface_problem(text: str) -> str | None:
    """Why `text` cannot name one of our interfaces, or None. 15 bytes is the kernel's IFNAMSIZ - 1."""
    if text in RESERVED_INTERFACES:
        return f"{text!r} is reserved"
    if len(text) > 15:
        return f"{text!r} has {len(text)} characters, the kernel allows 15"
    if _INTERFACE.fullmatch(text) is None:
        return (
            f"{text!r} is not made of letters, digits, '-' and '_' starting with a letter or digit"
        )
    return None


def parse_prefix(text: str) -> Prefix:
    """`172.16.1.0/24` or `2001:db8::/112`; host bits must be zero. Raises ValueError naming the text."""
    try:
        if "/" not in text:
            raise ValueError("a prefix needs its length, such as /24")
        return ipaddress.ip_network(text.strip())
    except ValueError as exc:
        raise ValueError(f"prefix {text!r}: {exc}") from exc


def parse_prefix_loosely(text: str) -> Prefix:
    """As `parse_prefix`, but host bits are cleared and a bare address is its /32 or /128."""
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as exc:
        raise ValueError(f"prefix {text!r}: {exc}") from exc


def parse_prefix_or_address(text: str) -> Prefix:
    """As `parse_prefix`, but a bare address is its /32 or /128."""
    return parse_prefix(text) if "/" in text else parse_prefix_loosely(text)


def overlap(one: Prefix, other: Prefix) -> bool:
    """Whether two prefixes share an address; never across families."""
    if isinstance(one, IPv4Network) and isinstance(other, IPv4Network):
        return one.overlaps(other)
    if isinstance(one, IPv6Network) and isinstance(other, IPv6Network):
        return one.overlaps(other)
    return False


def is_default_route(prefix: Prefix) -> bool:
    """`0.0.0.0/0` or `::/0`: the only routes that may cover what the cluster uses."""
    return prefix.prefixlen == 0
