"""What auth is told: `AUTH_*` variables."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    # keys made by `python -m services.auth keys FILE`
    keys_file: str
    # where the Kubernetes API is; none: that of the cluster this Pod runs in
    kubeconfig: str = ""
    # whose ServiceAccounts are ours
    system_namespace: str = "nsm-system"
    # audience that tokens must have
    audience: str = "nats.nsm"
