"""What dns is told: `DNS_*` variables."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    node: str  # name of the Node object
    node_netns: str = ""  # file of the node's network namespace; empty: our own
    cni_results: str = "/var/lib/cni/results"
    processes: str = "/proc"  # the node's
    cgroups: str = "/sys/fs/cgroup"  # the node's
    cluster_servers: str = ""  # separated by commas; empty: nameservers of our own resolv.conf
    node_servers: str = (
        ""  # those of the nodes, for Pods of dnsPolicy Default; empty: the cluster's
    )
    cluster_domain: str = "cluster.local"
    cache_entries: int = 0  # answers kept per Pod; 0: none
    target_ports: str = (
        ""  # of the cluster's DNS Pods where not 53, separated by commas: captured, too
    )
