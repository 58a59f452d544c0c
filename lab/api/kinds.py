"""Every kind the lab's API serves, and nothing about how it behaves.

A kind is looked up by group, version and plural (from a path) or by apiVersion and kind (from a manifest).
"""

from collections.abc import Iterable

import msgspec

Object = dict[str, object]

NSM_GROUP = "networkservicemesh.io"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind and its names. `custom` ones behave as a CRD's objects do, the others as built-ins."""

    kind: str
    plural: str
    group: str = ""
    version: str = "v1"
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    status: bool = False
    custom: bool = False
    generation: bool = False
    subresources: tuple[str, ...] = ()  # beside the status: each takes a POST only
    stored_as: str = ""  # plural of the core kind that holds the objects
    categories: tuple[str, ...] = ()

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """How errors name the kind: `pods`, `networkservices.networkservicemesh.io`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def qualified(self) -> str:
        """`Pod`, `NetworkService.networkservicemesh.io`"""
        return f"{self.kind}.{self.group}" if self.group else self.kind

    @property
    def singular(self) -> str:
        return self.kind.lower()

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, an object or its subresource."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        rest = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{root}{place}/{self.plural}{rest}"


PODS = Kind(
    kind="Pod",
    plural="pods",
    short_names=("po",),
    status=True,
    generation=True,
    subresources=("binding",),
    categories=("all",),
)
NAMESPACES = Kind(
    kind="Namespace", plural="namespaces", short_names=("ns",), namespaced=False, status=True
)
SERVICES = Kind(
    kind="Service", plural="services", short_names=("svc",), status=True, categories=("all",)
)
CONFIG_MAPS = Kind(kind="ConfigMap", plural="configmaps", short_names=("cm",))
NODES = Kind(kind="Node", plural="nodes", short_names=("no",), namespaced=False, status=True)
EVENTS = Kind(kind="Event", plural="events", short_names=("ev",))
NEW_EVENTS = Kind(
    kind="Event", plural="events", group="events.k8s.io", short_names=("ev",), stored_as="events"
)
SERVICE_CIDRS = Kind(
    kind="ServiceCIDR",
    plural="servicecidrs",
    group="networking.k8s.io",
    namespaced=False,
    status=True,
)
DEFINITIONS = Kind(
    kind="CustomResourceDefinition",
    plural="customresourcedefinitions",
    group="apiextensions.k8s.io",
    short_names=("crd", "crds"),
    namespaced=False,
    status=True,
    generation=True,
    categories=("api-extensions",),
)
SERVICE_ACCOUNTS = Kind(
    kind="ServiceAccount", plural="serviceaccounts", short_names=("sa",), subresources=("token",)
)
NETWORK_SERVICES = Kind(
    kind="NetworkService",
    plural="networkservices",
    group=NSM_GROUP,
    short_names=("netsvc",),
    status=True,
    custom=True,
    generation=True,
)
NETWORK_SERVICE_ENDPOINTS = Kind(
    kind="NetworkServiceEndpoint",
    plural="networkserviceendpoints",
    group=NSM_GROUP,
    short_names=("nse",),
    status=True,
    custom=True,
    generation=True,
)

# Definitions first: a store has to know them before the kinds they define.
KINDS: tuple[Kind, ...] = (
    DEFINITIONS,
    PODS,
    NAMESPACES,
    SERVICES,
    CONFIG_MAPS,
    NODES,
    EVENTS,
    NEW_EVENTS,
    SERVICE_ACCOUNTS,
    SERVICE_CIDRS,
    NETWORK_SERVICES,
    NETWORK_SERVICE_ENDPOINTS,
)

_BY_PLURAL = {(k.group, k.version, k.plural): k for k in KINDS}
_BY_KIND = {(k.api_version, k.kind): k for k in KINDS}


def by_plural(group: str, version: str, plural: str) -> Kind | None:
    return _BY_PLURAL.get((group, version, plural))


def by_kind(api_version: str, kind: str) -> Kind | None:
    return _BY_KIND.get((api_version, kind))


def by_any_name(name: str) -> Kind | None:
    """What people type: plural, singular, short name or kind, in any case."""
    wanted = name.lower()
    for kind in KINDS:
        if wanted in {kind.plural, kind.singular, *kind.short_names}:
            return kind
    return None


def groups(kinds: Iterable[Kind]) -> dict[str, list[str]]:
    """Named groups and their versions, in order; the core group is not one of them."""
    found: dict[str, list[str]] = {}
    for kind in kinds:
        if kind.group and kind.version not in found.setdefault(kind.group, []):
            found[kind.group].append(kind.version)
    return found
