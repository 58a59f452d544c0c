"""What a plumber is told: `PLUMBER_*` variables."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    # this node's name
    node: str
    # path of the node's network namespace; none: its own
    node_netns: str = ""
    # where the container runtime leaves CNI results
    cni_results: str = "/var/lib/cni/results"
    # where the node shows its processes: Pods are sought there if no CNI result names them
    processes: str = "/proc"
    # where the node shows its control groups, for the same
    cgroups: str = "/sys/fs/cgroup"
    # settings of networks, writable, of whoever opens a file there; container runtimes show their own read-only
    sysctls: str = "/proc/sys/net"
    # what was applied, for the next start
    runtime_dir: str = "/run/nsm"
