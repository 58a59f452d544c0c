"""The lab's API server: Kubernetes' wire behaviour over an object store in memory.

`kubectl` and every Kubernetes client talk to it as to a real one; the lab's own scheduler and kubelet use
the `Store` directly, on the same event loop and under the same rules. It holds nothing on disk.

Layers, each only knows those before it:
1. values: `errors`, `kinds`, `fields`, `selectors`, `patching`, `protobuf`, `conversion`;
2. rules: `structural` < `shapes`, `definitions` < `strategies`, `validating`;
3. state: `history` < `shelves` < `removal` < `store`; `shelves` < `identity`;
4. the wire: `tables`, `presenting`, `discovery`, `listing`, `misbehaving` < `watching`, `requests`, `responses`
   < `mischief` < `server`.
Beside them, for the CLI: `kubeconfig`, `manifests` < `client`.
"""
