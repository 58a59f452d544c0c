"""Settings of ipam: IPAM_* variables. What every service has is in `services._runtime.settings`."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How ipam behaves."""

    pool_interval: float = 1.0  # seconds between two figures of one pool
    adoption_seconds: float = 30.0  # how long a fresh bus waits for what the nodes still have
