"""What auth is told: `AUTH_*` variables."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    keys_file: str  # made by `python -m services.auth keys`
    kubeconfig: str = ""  # path; empty: this process runs in a Pod of the cluster
    system_namespace: str = "nsm-system"
    audience: str = "nats.nsm"
