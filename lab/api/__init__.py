"""The lab's API server: Kubernetes' wire behaviour over an object store in memory.

`kubectl` and every Kubernetes client talk to it as to a real one; the lab's own scheduler and kubelet use
the `Store` directly, on the same event loop and under the same rules. It holds nothing on disk.

Layers, each only knows those before it:
`errors`, `kinds`, `fields`, `selectors`, `patching` < `shapes`, `strategies` < `history` < `store` < `tables`,
`presenting`, `discovery`, `watching` < `server`; beside them `kubeconfig`, `client`, `manifests` for the CLI.
"""

from lab.api.errors import ApiError
from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import ApiOptions, LabApi
from lab.api.store import Store

__all__ = ["ApiError", "ApiOptions", "LabApi", "Store", "write_kubeconfig"]
