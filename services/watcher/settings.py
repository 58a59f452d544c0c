"""Settings of the watcher, from variables WATCHER_*."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`kubeconfig` is a path; empty means: this process runs in a Pod of the cluster."""

    # where the Kubernetes API is; none: that of the cluster this Pod runs in
    kubeconfig: str = ""
    # where the ConfigMap of excluded prefixes is
    system_namespace: str = "nsm-system"
