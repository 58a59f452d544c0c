"""The foreign things that dns touches: the kernel, in Pods' network namespaces, and the node's resolv.conf."""

from services._node.places import Place
from services.dns.adapters.capture import Capture, captured_ports
from services.dns.adapters.errors import Conflict, Gone, Refused
from services.dns.adapters.kernel import Kernel
from services.dns.adapters.resolv import NoServers, cluster_servers, node_searches, node_servers

__all__ = [
    "Capture",
    "Conflict",
    "Gone",
    "Kernel",
    "NoServers",
    "Place",
    "Refused",
    "captured_ports",
    "cluster_servers",
    "node_searches",
    "node_servers",
]
