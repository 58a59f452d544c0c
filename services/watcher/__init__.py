"""Watcher: tells the bus what Kubernetes wants, and tells Kubernetes what became of it.

owns      intent: stream NSM_INTENT (requests, endpoints, rules, prefixes in use) and its guard
reads     Pods, Namespaces, Nodes, Services, ServiceCIDRs, ConfigMaps, NetworkServices, NetworkServiceEndpoints;
          grants and refusals (NSM_GRANT), statuses and resolvers (NSM_STATE), heartbeats of nodes not Ready (NSM_LIVE)
writes    intent; on Pods the status annotation and the condition; the status of our own objects; Events
promises  what is in the stream is exactly what Kubernetes says now, whatever was missed in between;
          only the leader writes, to the bus and to Kubernetes, while a standby keeps warm caches;
          a malformed annotation wires nothing new and tears nothing down;
          a Pod or an object is written only when what it shows differs from the truth: not knowing is no reason
"""
