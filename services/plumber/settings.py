"""What a plumber is told: `PLUMBER_*` variables."""

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    node: str  # name of the Node object
    node_netns: str = ""  # file of the node's network namespace; empty: our own
    cni_results: str = "/var/lib/cni/results"
    processes: str = "/proc"  # the node's
    cgroups: str = "/sys/fs/cgroup"  # the node's
    sysctls: str = "/proc/sys/net"  # of whoever opens a file there; container runtimes show their own read-only
    runtime_dir: str = "/run/nsm"
