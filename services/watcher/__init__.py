"""Watcher: tells the bus what Kubernetes wants, and tells Kubernetes what became of it.

Owns    intent: stream NSM_INTENT (requests, endpoints, rules, prefixes in use) and its guard.
Reads   Pods, Namespaces, Nodes, Services, ConfigMaps, NetworkServices, NetworkServiceEndpoints;
        grants and refusals (NSM_GRANT), statuses (NSM_STATE).
Writes  intent; on Pods the status annotation and the condition; Events.
Promises
- What is in the stream is exactly what Kubernetes says now, whatever was missed in between.
- Only the leader writes, to the bus and to Kubernetes; a standby keeps warm caches.
- A malformed annotation wires nothing new and tears nothing down.
- A Pod is written only when what it shows differs from the truth; not knowing is no reason to write.
"""
