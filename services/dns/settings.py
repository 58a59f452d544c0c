"""What dns is told: `DNS_*` variables."""

import msgspec

from services._runtime.settings import Count


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    # this node's name
    node: str
    # path of the node's network namespace; none: its own
    node_netns: str = ""
    # where the container runtime leaves CNI results
    cni_results: str = "/var/lib/cni/results"
    # as `PLUMBER_PROCESSES`
    processes: str = "/proc"
    # as `PLUMBER_CGROUPS`
    cgroups: str = "/sys/fs/cgroup"
    # the cluster's DNS servers, separated by commas; none: those of `/etc/resolv.conf`
    cluster_servers: str = ""
    # DNS servers of the nodes, for Pods of dnsPolicy Default, separated by commas; none: the cluster's
    node_servers: str = ""
    # names below it are the cluster's
    cluster_domain: str = "cluster.local"
    # answers kept per Pod for as long as they say (at most an hour; denials by RFC 2308, at most five minutes);
    # 0: none; some 1 KB each
    cache_entries: Count = 0
    # ports of the cluster's DNS Pods other than 53 (for socket load balancers): captured, too, to any address;
    # 5353 takes mDNS with it
    target_ports: str = ""
