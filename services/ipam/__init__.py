"""ipam decides: which endpoint, which addresses, which routes. It touches nothing but the bus.

owns      the stream NSM_GRANT, and with it every address and route that a connection may use
reads     requests, endpoints, network services and prefixes in use (NSM_INTENT);
          statuses, facts and seen prefixes of nodes (NSM_STATE): statuses also say when an address is free again
writes    `nsm.connection.…` (granted), `nsm.refusal.…` (why not), `nsm.pool.…` (figures),
          `nsm.cluster.prefixes` (all prefixes in use)
promises  no address and no route overlaps a prefix in use, another connection of the same Pod, or the
          Pod's own addresses; an address has one owner until the node confirmed that it is gone;
          the same (namespace, pod, interface) gets its old address back while that is free;
          what a prefix in use swallows later is re-addressed, slowly, where there is a replacement;
          one writer at a time, fenced; a restart changes nothing that stands
"""
