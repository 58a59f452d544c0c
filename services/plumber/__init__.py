"""Plumber: one per node; makes the kernel agree with what ipam granted, and says what the kernel says.

owns      interfaces, addresses, routes, rules with their tables and permanent neighbours of granted connections in
          the network namespaces of this node's Pods; the nftables table `nsm_tunnels` in the node's
reads     `nsm.connection.<node>.>`, `nsm.leader.ipam.guard`, the CNI's result files, the kernel and its notices; where
          no result file comes, the control groups and processes of Pods; `nsm.cluster.prefixes` while a default
          route leads into a connection here
writes    `nsm.status.<node>.…`, `nsm.node.<node>`, `nsm.seen.<node>`, `nsm.alive.<node>`, and one file per
          applied grant in its runtime directory
promises  - what is not ours is never touched: ownership is written into the kernel (alias, link group,
            route protocol)
          - a restart, of it or of the bus, touches nothing that stands as granted
          - `ready` is said of a new pair only after frames passed both ways through it; of one that was
            adopted or changed, after both its ends were read back up and as granted (no frame of ours is sent
            through running links: an endpoint may have bridged or filtered its end); across nodes, only while the
            other end's kernel answers through the tunnel, with or without its plumber
          - the tunnel port hears and speaks to nodes of standing grants only, also while we are away
          - nothing of the CNI's own routing is changed: default routes and policies have tables of their own
          - what somebody deletes, downs, renames or changes of it is put right as soon as the kernel tells, and said;
            the sweep finds what notices missed
          - removal needs a released grant, its confirmed absence, or the end of the Pod's network: never
            silence
          - what is ours and nobody knows goes, once everything that is granted is known
          - what one message or one file contains costs one connection or one Pod, never the process
          - every released grant is answered by a status tombstone once nothing of it stands here
          - a dead Pod's network is not kept alive by us: what is open in it is closed when it ends
"""
