"""What touches a node: network namespaces, netlink, nftables and packet sockets in them, CNI results.

Used by the node's services and by the lab. It knows no service and no bus. Promises:

- a namespace is entered only by a throw-away thread, never by a pooled one, and nothing forks;
- every descriptor is close-on-exec and belongs to the caller, who closes it: an open one pins a dead
  Pod's namespace;
- nothing here runs on an event loop: calls block for microseconds to milliseconds, so services call
  them from worker threads (`cni.watch`, `sandboxes` and `monitor` are the asynchronous exceptions).
"""
