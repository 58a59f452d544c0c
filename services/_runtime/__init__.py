"""What runs a service and knows none: one connection to the bus, the truth on it, and the right to write it.

owns:     the streams (made and checked by watcher and ipam), leases, health port, logs, metrics, settings
reads:    NSM_INTENT, NSM_GRANT, NSM_STATE through mirrors; leases in NSM_LIVE
writes:   what services hand it; `nsm.leader.<service>.guard`, `nsm.lease.<service>`, history of guarded writes
promises:
- a mirror survives everything (cut, restart, wipe, slow loop) and never loses an item because of silence:
  what is absent counts as gone only if the writer said, in this incarnation of the stream, that it wrote all;
- what publish returned is stored, once, and in the order of the calls for one subject;
- at most one leader's writes are accepted; a paused old one is refused by the server;
- a login that ends is renewed before it does, and one that is refused is tried again for ever;
- a bug or a connection closed for good ends the process: nothing half-alive stays.
"""
