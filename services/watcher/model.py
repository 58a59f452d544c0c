"""The few fields we need of Kubernetes' objects; everything else is dropped while decoding.

Every field has a default: an object that lacks one is an object without it. Specs of our own kinds stay
free-form here and are read by `core.specs`, which can say what is wrong with them.
"""

from typing import Any

import msgspec

from schemas import annotation

STATUS_ANNOTATION = "networkservicemesh.io/status"
CONDITION = annotation.CONDITION
CAPTURE_ANNOTATION = "dns.networkservicemesh.io/capture"  # "false": no DNS of network services
STATIC_POD_ANNOTATION = "kubernetes.io/config.hash"

Ref = tuple[str, str]  # (namespace, name); namespace "" for cluster-wide objects


class Metadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0  # counts versions of the spec; 0: the server does not say
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class Object(msgspec.Struct, frozen=True, kw_only=True):
    """What all kinds share."""

    metadata: Metadata = Metadata()

    @property
    def ref(self) -> Ref:
        return (self.metadata.namespace, self.metadata.name)

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def version(self) -> int:
        """Kubernetes' versions of one kind may be compared as numbers; one that is none counts as newest."""
        text = self.metadata.resource_version
        return int(text) if text.isdigit() else 1 << 63

    @property
    def labels(self) -> dict[str, str]:
        return self.metadata.labels or {}

    @property
    def annotations(self) -> dict[str, str]:
        return self.metadata.annotations or {}


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    status: str = "Unknown"
    reason: str | None = None
    message: str | None = None


class ReadinessGate(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    condition_type: str = ""


class DnsConfig(msgspec.Struct, frozen=True, kw_only=True):
    nameservers: tuple[str, ...] | None = None
    searches: tuple[str, ...] | None = None


class PodSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    node_name: str | None = None
    host_network: bool | None = None
    dns_policy: str | None = None
    dns_config: DnsConfig | None = None
    readiness_gates: tuple[ReadinessGate, ...] | None = None


class PodIp(msgspec.Struct, frozen=True, kw_only=True):
    ip: str = ""


class PodStatus(
    msgspec.Struct, frozen=True, kw_only=True, rename={"pod_ip": "podIP", "pod_ips": "podIPs"}
):
    phase: str | None = None
    pod_ip: str | None = None
    pod_ips: tuple[PodIp, ...] | None = None
    conditions: tuple[Condition, ...] | None = None


class Pod(Object, frozen=True, kw_only=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def node(self) -> str:
        return self.spec.node_name or ""

    @property
    def host_network(self) -> bool:
        return bool(self.spec.host_network)

    @property
    def terminal(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def ips(self) -> tuple[str, ...]:
        listed = tuple(each.ip for each in self.status.pod_ips or () if each.ip)
        return listed or ((self.status.pod_ip,) if self.status.pod_ip else ())

    @property
    def own_ips(self) -> tuple[str, ...]:
        """Addresses that nobody else has while it lives; a Pod in its node's network has none."""
        return () if self.host_network or self.terminal else self.ips

    @property
    def gated(self) -> bool:
        """Whether the Pod waits for our condition before it is Ready."""
        return any(gate.condition_type == CONDITION for gate in self.spec.readiness_gates or ())

    def condition(self, kind: str) -> Condition | None:
        return next((each for each in self.status.conditions or () if each.type == kind), None)

    @property
    def ready(self) -> bool:
        found = self.condition("Ready")
        return found is not None and found.status == "True"


class Namespace(Object, frozen=True, kw_only=True):
    """Its annotation holds for its Pods that have none."""


class NodeSpec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"pod_cidr": "podCIDR", "pod_cidrs": "podCIDRs"},
):
    pod_cidr: str | None = None
    pod_cidrs: tuple[str, ...] | None = None


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True):
    type: str = ""
    address: str = ""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    addresses: tuple[NodeAddress, ...] | None = None
    conditions: tuple[Condition, ...] | None = None


class Node(Object, frozen=True, kw_only=True):
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def ready(self) -> bool:
        """A node that says nothing about itself counts as ready: we judge by word, not by silence."""
        found = [each for each in self.status.conditions or () if each.type == "Ready"]
        return not found or found[0].status == "True"

    @property
    def pod_cidrs(self) -> tuple[str, ...]:
        return self.spec.pod_cidrs or ((self.spec.pod_cidr,) if self.spec.pod_cidr else ())

    @property
    def internal_ips(self) -> tuple[str, ...]:
        listed = self.status.addresses or ()
        return tuple(each.address for each in listed if each.type == "InternalIP")


class ServiceSpec(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={
        "cluster_ip": "clusterIP",
        "cluster_ips": "clusterIPs",
        "external_ips": "externalIPs",
    },
):
    cluster_ip: str | None = None
    cluster_ips: tuple[str, ...] | None = None
    external_ips: tuple[str, ...] | None = None


class Ingress(msgspec.Struct, frozen=True, kw_only=True):
    ip: str | None = None


class LoadBalancer(msgspec.Struct, frozen=True, kw_only=True):
    ingress: tuple[Ingress, ...] | None = None


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    load_balancer: LoadBalancer | None = None


class KubeService(Object, frozen=True, kw_only=True):
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()

    @property
    def addresses(self) -> tuple[str, ...]:
        """What it is reached at: cluster IPs (a headless one has none), external ones, its balancer's."""
        spec, balancer = self.spec, self.status.load_balancer
        inside = spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ())
        ingress = (balancer and balancer.ingress) or ()
        listed = (*inside, *(spec.external_ips or ()), *(each.ip or "" for each in ingress))
        return tuple(each for each in listed if each not in ("", "None"))


class ServiceCidrSpec(msgspec.Struct, frozen=True, kw_only=True):
    cidrs: tuple[str, ...] | None = None


class ServiceCidr(Object, frozen=True, kw_only=True):
    """Prefixes that cluster IPs come from; clusters before 1.33 have no such objects."""

    spec: ServiceCidrSpec = ServiceCidrSpec()


class ConfigMap(Object, frozen=True, kw_only=True):
    data: dict[str, str] | None = None


class OurObject(Object, frozen=True, kw_only=True):
    """Of our own kinds. Whatever stands in the status, the object can be read."""

    spec: Any = None
    status: Any = None

    @property
    def shown(self) -> dict[str, Any]:
        """Its status as it is now."""
        return self.status if isinstance(self.status, dict) else {}


Subject = tuple[type[OurObject], Ref]  # such an object


class NetworkService(OurObject, frozen=True, kw_only=True):
    """Rules of a network service."""


class NetworkServiceEndpoint(OurObject, frozen=True, kw_only=True):
    """Pods that offer network services, and their pool."""


class ShownDns(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """DNS of an item, once it is served; `domains` is ours, the rest as `network-status` spells it."""

    nameservers: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the status annotation, in the shape of `k8s.v1.cni.cncf.io/network-status`."""

    name: str  # <namespace>/<network service>
    interface: str
    ips: tuple[str, ...] = ()
    mac: str = ""
    mtu: int = 0
    dns: ShownDns | None = None
    state: str = "waiting"  # ready, waiting, refused, failed
    reason: str = ""
    endpoint: str = ""  # <namespace>/<Pod> at the other end


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why an object is not obeyed. `reason` is stable CamelCase; `message` names thing, reason and remedy."""

    reason: str
    message: str


class ObjectRef(msgspec.Struct, frozen=True, kw_only=True):
    """Whom an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
