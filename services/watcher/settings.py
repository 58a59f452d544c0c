"""Settings of the watcher, from variables WATCHER_*."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`kubeconfig` is a path; empty means: this process runs in a Pod of the cluster.

    `writes_in_flight`: how many Pods are written at once at most.
    """

    kubeconfig: str = ""
    system_namespace: str = "nsm-system"
    writes_in_flight: int = 16
