"""Settings of ipam: IPAM_* variables. What every service has is in `services._runtime.settings`."""

from typing import Annotated

import msgspec

from schemas import values
from schemas.values import Prefix
from services._runtime.settings import SettingsError

OFF = "off"  # not the empty text: an empty variable counts as not set
_SUPERNETS = "100.112.0.0/12=24,fd6e:736d:6e61::/48=112"

_Positive = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How ipam behaves."""

    # seconds between two figures of one pool
    pool_interval: _Positive = 1.0
    # how long ipam waits, on a fresh or wiped bus, for all nodes to report what they still have
    adoption_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    # how many connections get other addresses when a prefix comes into use
    readdress_per_second: _Positive = 10.0
    # where prefixes of endpoints that name none are carved, and how long they are; `off`: nowhere
    automatic_prefixes: str = _SUPERNETS

    def __post_init__(self) -> None:
        self.supernets()

    def supernets(self) -> tuple[tuple[Prefix, int], ...]:
        """Where automatic prefixes are carved, and how long each is. Raises SettingsError."""
        if self.automatic_prefixes.strip() == OFF:
            return ()
        found: list[tuple[Prefix, int]] = []
        for item in self.automatic_prefixes.split(","):
            try:
                supernet, length = _supernet(item)
                for other, _ in found:
                    if values.overlap(supernet, other):
                        raise ValueError(f"{supernet} overlaps {other}")
            except ValueError as exc:
                raise SettingsError(
                    f"IPAM_AUTOMATIC_PREFIXES={self.automatic_prefixes!r} cannot be used: {exc}; write"
                    f" SUPERNET=LENGTH pairs separated by commas, such as {_SUPERNETS}, or {OFF}"
                ) from exc
            found.append((supernet, length))
        return tuple(found)


def _supernet(item: str) -> tuple[Prefix, int]:
    text, equals, length_text = item.strip().partition("=")
    if not equals or not length_text.strip().isdecimal():
        raise ValueError(f"{item.strip()!r} does not say SUPERNET=LENGTH")
    supernet, length = values.parse_prefix(text), int(length_text)
    if supernet.is_loopback or supernet.is_link_local or supernet.is_multicast:
        raise ValueError(f"{supernet} is not for connections")
    longest = supernet.max_prefixlen - 2  # a network address, the endpoint, a client
    if not supernet.prefixlen <= length <= longest:
        raise ValueError(
            f"a length of {length} does not lie between {supernet.prefixlen} and {longest}"
        )
    return supernet, length
