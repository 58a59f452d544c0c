"""What to do for each reason that a Pod may show: the words of docs/reference.md, which a test compares.

And where to look: a lab and a cluster have different commands for the same thing.
"""

import msgspec

SYSTEM = "nsm-system"

BY_REASON = {
    "MalformedAnnotation": "correct it",
    "HostNetwork": "run it without hostNetwork",
    "NoEndpoint": "create an endpoint and a Pod for it",
    "NoMatchingEndpoint": "correct the labels",
    "EndpointNotReady": "see its events",
    "NotAllowed": "allow the namespace; write @namespace",
    "AmbiguousNetworkService": "allow the namespace; write @namespace",
    "PoolExhausted": "add a prefix",
    "PrefixCollision": "choose another prefix",
    "NodeSilent": "start its plumber, or delete its Node object",
    "NoPrefixes": "add them, or widen IPAM_AUTOMATIC_PREFIXES",
    "Readdressed": "see whether what it runs has noticed",
    "BadEndpoint": "correct it",
    "RemoteNotSupported": "see the plumber there",
    "PodNetworkNotFound": "wait; see the Pod's events",
    "PeerNotReady": "see the endpoint Pod",
    "EndpointPodGone": "see the endpoint Pod",
    "InterfaceNameTaken": "choose another name",
    "KernelError": "see the plumber's log",
    "BadGrant": "see the plumber's log",
    "InternalError": "see the plumber's log",
    "PeerSilent": "look at its Pod and its node, and whether UDP 14789 is open between the nodes",
    "ClusterPrefixesUnknown": "is ipam running?",
    "InterfaceRepaired": "find out who; see nsm plumb explain",
    "ResolverPending": "wait; see nsm.resolver.<node>.>",
    "DNSCaptureConflict": "remove the other one, or opt out, see below",
    "DNSCaptureFailed": "see the dns service's log",
    "InvalidSpec": "correct the field that is named",
    "InvalidAnnotation": 'write "false", or remove it',
    "MalformedPrefix": "correct them",
    "NotPublished": "make it smaller, or raise the server's max_payload",
}

UNKNOWN = "see docs/reference.md, Status of a Pod"


class Place(msgspec.Struct, frozen=True):
    """Where the mesh runs that is looked at."""

    is_lab: bool

    def see(self, service: str, node: str = "") -> str:
        """How to look at a service, on a node."""
        if self.is_lab:
            return f"nsm lab ps; nsm lab logs {service}{'/' + node if node else ''}"
        pods = f"kubectl -n {SYSTEM} get pods -l app.kubernetes.io/name={service}"
        if node:
            return (
                f"{pods} --field-selector spec.nodeName={node}; then: kubectl -n {SYSTEM} logs POD"
            )
        return f"{pods}; kubectl -n {SYSTEM} logs -l app.kubernetes.io/name={service}"


def of_reason(reason: str) -> str:
    """What to do about a reason."""
    return BY_REASON.get(reason, UNKNOWN)
