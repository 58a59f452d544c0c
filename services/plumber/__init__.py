"""Plumber: one per node; makes the kernel agree with what ipam granted, and says what the kernel says.

owns      interfaces, addresses, routes and permanent neighbours of granted connections in the network
          namespaces of this node's Pods
reads     `nsm.connection.<node>.>`, `nsm.leader.ipam.guard`, the CNI's result files, the kernel
writes    `nsm.status.<node>.…`, `nsm.node.<node>`, `nsm.seen.<node>`, `nsm.alive.<node>`, and one file per
          applied grant in its runtime directory
promises  - what is not ours is never touched: ownership is written into the kernel (alias, link group,
            route protocol)
          - a restart, of it or of the bus, touches nothing that stands as granted
          - `ready` is said of a new pair only after frames passed both ways through it; of one that was
            adopted or changed, after both its ends were read back up and as granted (no frame of ours is sent
            through running links: an endpoint may have bridged or filtered its end)
          - removal needs a released grant, its confirmed absence, or the end of the Pod's network: never
            silence
          - what is ours and nobody knows goes, once everything that is granted is known
          - what one message or one file contains costs one connection or one Pod, never the process
          - every released grant is answered by a status tombstone once nothing of it stands here
          - a dead Pod's network is not kept alive by us: no descriptor outlives its operation
"""
