"""Settings of the watcher, from variables WATCHER_*."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`kubeconfig` is a path; empty means: this process runs in a Pod of the cluster."""

    kubeconfig: str = ""
    system_namespace: str = "nsm-system"
