"""Settings of the watcher, from variables WATCHER_*."""

import msgspec

from services._runtime.settings import AtLeastOne


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where Kubernetes is, and how much is asked of it."""

    # where the Kubernetes API is; none: that of the cluster this Pod runs in
    kubeconfig: str = ""
    # where the ConfigMap of excluded prefixes is
    system_namespace: str = "nsm-system"
    # how many Pods' statuses are written at once; when the API server says to stay away (429, `Retry-After`), all wait
    writes_in_flight: AtLeastOne = 16
