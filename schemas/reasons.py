"""Every reason that a condition, an Event, a refusal or a refused login may have: what it means and what to do.

Reasons are stable: people alert on them. The message beside one names the thing and the value.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    meaning: str
    remedy: str = ""  # empty: nothing is wrong
    is_users: bool = (
        False  # who wrote the annotation, the endpoint or the Pod has to act, not who runs the mesh
    )


# What one service says and another one acts on, and what several say.
PEER_SILENT = "PeerSilent"  # after some 1.6 seconds without an answer
PREFIX_COLLISION = "PrefixCollision"
NO_ENDPOINT = "NoEndpoint"
NOT_RELEASED = "NotReleased"

# Of conditions and Events on Pods and on our objects, and of refusals and statuses on the bus.
OBJECTS: dict[str, Reason] = {
    "Connected": Reason("usable: frames crossed the link both ways when it was made"),
    "Connecting": Reason(
        "not usable yet: it waits for ipam's answer, its node or the other end; the message says for what"
    ),
    "Updating": Reason(
        "usable as it was, while its node makes it what was granted last; the message says for what it waits"
    ),
    "Disconnected": Reason("an Event: what was connected is not any more; the message says why"),
    "NodeLost": Reason(
        "the condition is Unknown: Kubernetes calls the Pod's node not Ready, or knows it no more, and its plumber has "
        "been silent for half a minute; the Pod was connected. It comes back by itself with either of them; no Event, "
        "as Kubernetes tells of the node on each of its Pods",
        "see the node: `kubectl describe node`",
    ),
    "MalformedAnnotation": Reason("the column is in the message", "correct it", is_users=True),
    "HostNetwork": Reason(
        "the Pod uses its node's network: nothing is wired there",
        "run it without `hostNetwork`",
        is_users=True,
    ),
    "PodCompleted": Reason("the Pod ended and released what it had"),
    NO_ENDPOINT: Reason(
        "no Pod offers the network service; what the namespace offers is named, or its endpoint without a Pod; a new "
        "Pod is warned after ten seconds. On an endpoint: its `podSelector` matches no Pod that can serve, for ten "
        "seconds or more",
        "correct the name, or create an endpoint and a Pod for it; of an endpoint without Pods: its `podSelector` or "
        "their labels",
        is_users=True,
    ),
    "NoMatchingEndpoint": Reason(
        "endpoints exist; none has the labels, or the rules of the NetworkService lead to none; all are listed",
        "correct the labels in the annotation or on the endpoint; where the message names a NetworkService, its "
        "`matches`",
        is_users=True,
    ),
    "EndpointNotReady": Reason(
        "the endpoint Pod is not Ready, or it is being deleted; a new Pod is warned after ten seconds",
        "see its events",
        is_users=True,
    ),
    "EndpointNodeNotReady": Reason(
        "the endpoint Pod's node is not Ready; a new Pod is warned after ten seconds",
        "see the node: `kubectl describe node`",
    ),
    "NotAllowed": Reason(
        "the namespace behind the `@` has no such network service, is not there itself, or does not allow the Pod's "
        "namespace; the message says which",
        "correct what stands behind the `@`, or add the Pod's namespace to the `allowedNamespaces` of a NetworkService "
        "there",
        is_users=True,
    ),
    "AmbiguousNetworkService": Reason(
        "the Pod's own namespace has no such network service, and several others allow it theirs; they are named",
        "write `@namespace` behind the name, to say which",
        is_users=True,
    ),
    "PoolExhausted": Reason(
        "the pool is full; the numbers are in the message", "add a prefix", is_users=True
    ),
    PREFIX_COLLISION: Reason(
        "an address or route of the endpoint would overlap a prefix in use, or another connection of the Pod; both are "
        "named. An Event on a connected Pod: it keeps what a prefix covers now, for nothing else is free",
        "choose another prefix or route, or what else the message says",
        is_users=True,
    ),
    NOT_RELEASED: Reason(
        "an address or route overlaps that of a former connection of the Pod, which the Pod's node has not taken down "
        "yet; both are named. A new interface is warned after ten seconds",
        "it is granted as soon as the node has; if that takes long, see the plumber there",
    ),
    "NodeSilent": Reason(
        "since the bus was lost a node has not told what it still has; an endpoint with a Pod "
        "there gives no new addresses, and a client there gets no new tunnel; nobody does while "
        "two or more nodes are silent",
        "start its plumber, or delete its Node object",
    ),
    "NoPrefixes": Reason(
        "the endpoint has no `ipam.prefixes`, and automatic ones, of a family that its routes need, are off or used "
        "up; the supernet is named, and who is there",
        "add them, or widen `IPAM_AUTOMATIC_PREFIXES`; it heals by itself when something is given up",
    ),
    "Readdressed": Reason(
        "an Event on clients and endpoint Pods: a connection has other addresses now, since a prefix came into use or "
        "the endpoint was edited; old, new and why are named",
        "see whether what it runs has noticed",
    ),
    "BadEndpoint": Reason(
        "the endpoint's prefixes or routes cannot work; the message says which, on the Pod and on the endpoint",
        "correct it",
        is_users=True,
    ),
    "RemoteNotSupported": Reason(
        "the endpoint is on another node, and one of the two cannot make tunnels, or only with an "
        "MTU below the 1280 that IPv6 needs; the message names it",
        "see the plumber there",
    ),
    "PodNetworkNotFound": Reason(
        "the Pod's network is not there yet, or is gone", "wait; see the Pod's events"
    ),
    "PeerNotReady": Reason(
        "the other end's network is not there, or it has not answered through the tunnel yet. After ten "
        "seconds of tunnel without an answer it is a failure, with an Event",
        "look at the endpoint Pod and its node, and whether UDP 14789 is open between the nodes",
    ),
    "EndpointPodGone": Reason(
        "the endpoint Pod's network was there and is gone, as it is when the Pod ends. The client moves to another "
        "endpoint Pod, if there is one",
        "wait; if it lasts, see why the endpoint Pod ended",
        is_users=True,
    ),
    "InterfaceNameTaken": Reason(
        "the Pod has an interface of that name that is not ours",
        "choose another name",
        is_users=True,
    ),
    "RouteTaken": Reason(
        "the Pod has a route to the same destination that is not this connection's and was there first; the message "
        "names it",
        "delete it, wait where it is another connection's, or let the endpoint give another prefix or route; "
        "it is tried again",
        is_users=True,
    ),
    "KernelError": Reason(
        "the node could not wire it; the message says what the kernel said. It tries again",
        "see the plumber's log",
    ),
    "BadGrant": Reason(
        "the plumber cannot wire what ipam granted; the message says what of it makes no sense",
        "run ipam and plumbers of one version; if they are, report it",
    ),
    "InternalError": Reason(
        "the plumber failed in a way that nobody foresaw; the message names the error. It tries again",
        "report it, with the traceback in the plumber's log",
    ),
    PEER_SILENT: Reason(
        "the other end answers no more through the tunnel. The client moves to an endpoint on a node that is heard, "
        "after a second; without one it stays, and comes back by itself",
        "look at its Pod and its node, and whether UDP 14789 is open between the nodes",
    ),
    "ClusterPrefixesUnknown": Reason(
        "a default route waits until ipam has told the cluster's prefixes", "is ipam running?"
    ),
    "InterfaceRepaired": Reason(
        "an Event: somebody changed or deleted an interface of ours; it was put right",
        "find out who; see `nsm plumb explain`",
    ),
    "ResolverPending": Reason(
        "wired, but the node's dns service has not said yet that it answers the Pod's queries",
        "wait; see `nsm.resolver.<node>.>`",
    ),
    "DNSCaptureConflict": Reason(
        "something else redirects port 53 in the Pod's network (a sidecar, say): ours stays off, "
        "the Pod asks only the cluster's DNS",
        'remove the other one, or annotate the Pod with `dns.networkservicemesh.io/capture: "false"`: it keeps its '
        "connections, without their DNS",
        is_users=True,
    ),
    "DNSCaptureFailed": Reason(
        "the kernel refused; the message says what it said", "see the dns service's log"
    ),
    "ForeignDefinition": Reason(
        "an Event on one of our objects: the cluster's definition of its kind is another mesh's, or of another "
        "version; the fields that the API server drops are named",
        "apply ours if nobody needs theirs",
    ),
    "InvalidSpec": Reason(
        "an Event on one of our objects: it has no effect as it is written. On a Pod: so it is with the endpoint that "
        "would serve it",
        "correct the field that is named",
        is_users=True,
    ),
    "InvalidAnnotation": Reason(
        "an Event: `dns.networkservicemesh.io/capture` is neither `true` nor `false`; it counts as `true`",
        'write `"false"`, or remove it',
        is_users=True,
    ),
    "MalformedPrefix": Reason(
        "an Event on the ConfigMap: these lines, or the key, cannot be understood. The other lines have effect, and "
        "what was excluded before stays so",
        "correct the lines that are named, or the key",
    ),
    "NotPublished": Reason(
        "an Event: the object is too large for the bus",
        "make it smaller, or raise the server's `max_payload`",
    ),
    "Accepted": Reason("the spec of the object is understood"),
    "UsedAround": Reason(
        "a part of the endpoint's prefixes is in use elsewhere and is not given: at most half of its addresses"
    ),
    "NoCollision": Reason("no prefix and no route of the endpoint overlaps a prefix in use"),
    "SomeFailed": Reason(
        "some connections of the endpoint do not work; one is named", "see the events of its Pod"
    ),
    "AllFailed": Reason(
        "no connection of the endpoint works; one is named", "see the events of its Pod"
    ),
    "NoClients": Reason("nobody is connected to the endpoint"),
}

# Of logins that auth refused, in its log.
LOGINS: dict[str, Reason] = {
    "NoToken": Reason("the login has no token", "set `NSM_TOKEN_FILE`"),
    "TokenInvalid": Reason(
        "Kubernetes, or its public keys, refuse the token (also a deleted Pod's)",
        "see the message; a new Pod gets a new token",
    ),
    "TokenExpired": Reason("its time is over", "the client has to read the rotated file"),
    "WrongAudience": Reason("it is not for `AUTH_AUDIENCE`", "correct the projected volume"),
    "UnknownRole": Reason(
        "it is not of one of our ServiceAccounts in `AUTH_SYSTEM_NAMESPACE`",
        "use `nsm-<role>` there",
    ),
    "NoNode": Reason(
        "a node role's token names no node", "use a Pod's token; Kubernetes 1.30 or newer"
    ),
    "WrongConnectionName": Reason(
        "the name does not fit the token", "token and role or node do not belong together"
    ),
    "CannotTell": Reason(
        "the API server is away and gave no public keys yet", "see auth's `/readyz`"
    ),
    "InternalError": Reason(
        "auth failed in a way that nobody foresaw", "report it, with the traceback in auth's log"
    ),
    "BadQuestion": Reason(
        "the question was not sealed by a server with these keys",
        "include the output of `config` for the same keys",
    ),
}
