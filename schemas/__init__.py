"""What crosses the bus. No I/O, no clock; services meet here and nowhere else.

| message                                    | subject                                  | writer, readers           |
|--------------------------------------------|------------------------------------------|---------------------------|
| `intent.Request`                           | `nsm.request.…`                          | watcher → ipam            |
| `intent.Endpoint`, `intent.NetworkService` | `nsm.endpoint.…`, `nsm.networkservice.…` | watcher → ipam            |
| `intent.PrefixesInUse`                     | `nsm.prefix.…`                           | watcher → ipam            |
| `intent.Leader`                            | `nsm.leader.<service>.guard`             | watcher, ipam → followers |
| `grant.Connection`                         | `nsm.connection.<node>.…`                | ipam → plumber, watcher   |
| `grant.Refusal`, `grant.Pool`              | `nsm.refusal.…`, `nsm.pool.…`            | ipam → watcher            |
| `grant.ClusterPrefixes`                    | `nsm.cluster.prefixes`                   | ipam → plumber            |
| `state.Status`                             | `nsm.status.<node>.…`                    | plumber → watcher, ipam   |
| `state.NodeFacts`, `state.SeenPrefixes`    | `nsm.node.…`, `nsm.seen.…`               | plumber → ipam            |
| `state.Resolver`                           | `nsm.resolver.<node>.…`                  | dns → watcher             |
| `live.Lease`, `live.Alive`                 | `nsm.lease.…`, `nsm.alive.…`             | leaders, nodes → leaders  |
"""
