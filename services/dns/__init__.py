"""DNS: one per node; answers port 53 of those Pods whose network services provide DNS.

owns      one nftables table and the listeners behind it in the network namespace of each such Pod, and what
          it says of them
reads     `nsm.connection.<node>.>`, `nsm.leader.ipam.guard`, the CNI's result files (where none comes, the processes of
          Pods), the rules in those namespaces
writes    `nsm.resolver.<node>.…`
promises  - only Pods with a connection that provides DNS are touched; `/etc/resolv.conf` never is
          - it fails open: when the process ends, the next query goes where the Pod sends it; when it hangs,
            within four seconds; when it is told to end, what it was asked is answered before
          - the cluster's DNS is asked for every name, whatever else is asked
          - somebody else's redirect of port 53 is respected, now or when it comes: no capture, and that is said
          - what stands is released only by a grant's release, its confirmed absence, or the end of the Pod's
            network: never because of silence
          - what one message or one Pod contains costs that Pod only, never the process
          - a dead Pod's network is not kept alive by us: every descriptor in it is closed when it ends
"""
