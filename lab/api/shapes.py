"""What the fields of built-in kinds look like, as structural schemas.

The same dictionaries are served under /openapi/v3 (`kubectl explain`) and used to validate and prune. Fields that
people write are listed by name down to containers and ports; deeper ones are taken as they come.
"""

from typing import Any

from lab.api import structural
from lab.api.errors import Cause
from lab.api.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    EVENTS,
    NAMESPACES,
    NEW_EVENTS,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICE_CIDRS,
    SERVICES,
    Kind,
)

Schema = structural.Schema


def _object(
    text: str = "", *, need: tuple[str, ...] = (), also: str | None = None, **properties: Schema
) -> Schema:
    """`also`: names of further fields of any shape, and there are no others; without it, any are taken."""
    more: Schema = {name: {} for name in (also or "").split()}
    schema: Schema = {"type": "object", "properties": properties | more}
    if also is None:
        schema[structural.PRESERVE] = True
    if need:
        schema["required"] = list(need)
    return schema | ({"description": text} if text else {})


def _list(item: Schema, text: str = "") -> Schema:
    return {"type": "array", "items": item} | ({"description": text} if text else {})


def _text(text: str = "", *, one_of: tuple[str, ...] = (), pattern: str = "") -> Schema:
    schema: Schema = {"type": "string"} | ({"description": text} if text else {})
    if one_of:
        schema["enum"] = list(one_of)
    if pattern:
        schema["pattern"] = pattern
    return schema


_WORD: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_WORDS: Schema = {"type": "object", "additionalProperties": _WORD}
_STATUS = _object("What is, written by the system.")

_CONDITIONS = _list(_object(need=("type",), type=_WORD, status=_WORD))
_CONTAINER_STATUSES = _list(_object(ready=_FLAG, restartCount=_COUNT))
_NODE = _object(
    "A machine that runs Pods.",
    also="",
    spec=_object(
        podCIDR=_WORD,
        podCIDRs=_list(_WORD),
        unschedulable=_FLAG,
        also="configSource externalID providerID taints",
    ),
    status=_object(conditions=_CONDITIONS, addresses=_list(_object(type=_WORD, address=_WORD))),
)
_CONTAINER = _object(
    need=("name", "image"),
    name=_text(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"),
    image=_WORD,
    command=_list(_WORD),
    args=_list(_WORD),
    env=_list(_object(need=("name",), name=_WORD, value=_WORD, also="valueFrom")),
    ports=_list(
        _object(
            need=("containerPort",),
            containerPort=_COUNT,
            protocol=_WORD,
            also="hostIP hostPort name",
        )
    ),
    also="envFrom imagePullPolicy lifecycle livenessProbe readinessProbe resizePolicy resources restartPolicy "
    "restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath "
    "terminationMessagePolicy tty volumeDevices volumeMounts workingDir",
)
_POD = _object(
    "Containers that share a network.",
    need=("spec",),
    also="",
    spec=_object(
        need=("containers",),
        containers=_list(_CONTAINER) | {"minItems": 1},
        initContainers=_list(_CONTAINER),
        nodeName=_WORD,
        hostNetwork=_FLAG,
        restartPolicy=_text(one_of=("Always", "OnFailure", "Never")),
        terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
        nodeSelector=_WORDS,
        readinessGates=_list(_object(need=("conditionType",), conditionType=_WORD, also="")),
        also="activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks "
        "ephemeralContainers hostAliases hostIPC hostPID hostUsers hostname hostnameOverride imagePullSecrets os "
        "overhead preemptionPolicy priority priorityClassName resourceClaims resources runtimeClassName "
        "schedulerName schedulingGates schedulingGroup securityContext serviceAccount serviceAccountName "
        "setHostnameAsFQDN shareProcessNamespace subdomain tolerations topologySpreadConstraints volumes",
    ),
    status=_object(
        "What is, written by the kubelet and others.",
        phase=_WORD,
        podIP=_WORD,
        podIPs=_list(_object(ip=_WORD, also="")),
        conditions=_CONDITIONS,
        containerStatuses=_CONTAINER_STATUSES,
        initContainerStatuses=_CONTAINER_STATUSES,
    ),
)
_SERVICE_PORT = _object(
    need=("port",),
    port=_COUNT,
    name=_WORD,
    protocol=_WORD,
    targetPort={"x-kubernetes-int-or-string": True},
    also="appProtocol nodePort",
)
_SERVICE = _object(
    "A stable address for Pods.",
    also="",
    spec=_object(
        type=_text(one_of=("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")),
        clusterIP=_WORD,
        clusterIPs=_list(_WORD),
        externalIPs=_list(_WORD),
        selector=_WORDS,
        ports=_list(_SERVICE_PORT),
        also="allocateLoadBalancerNodePorts externalName externalTrafficPolicy healthCheckNodePort "
        "internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP "
        "loadBalancerSourceRanges publishNotReadyAddresses sessionAffinity sessionAffinityConfig "
        "trafficDistribution",
    ),
    status=_object(
        loadBalancer=_object(
            ingress=_list(_object(ip=_WORD, hostname=_WORD, also="ipMode ports")), also=""
        ),
        also="conditions",
    ),
)
_EVENT = _object(
    need=("involvedObject",),
    involvedObject=_object(also="apiVersion fieldPath kind name namespace resourceVersion uid"),
    reason=_WORD,
    message=_WORD,
    type=_WORD,
    count=_COUNT,
    also="action eventTime firstTimestamp lastTimestamp related reportingComponent reportingInstance series source",
)
_SERVICE_CIDR = _object(
    "Prefixes that Services get their cluster IPs from.",
    also="",
    spec=_object(cidrs=_list(_WORD, "One IPv4 prefix, one IPv6 prefix, or both."), also=""),
    status=_STATUS,
)
_DEFINITION = _object(
    "A kind that objects may be of.",
    need=("spec",),
    also="",
    spec=_object(
        need=("group", "names", "scope", "versions"),
        group=_WORD,
        names=_object(
            need=("plural", "kind"),
            plural=_WORD,
            singular=_WORD,
            kind=_WORD,
            listKind=_WORD,
            shortNames=_list(_WORD),
            categories=_list(_WORD),
            also="",
        ),
        scope=_text(one_of=("Cluster", "Namespaced")),
        versions=_list(
            _object(
                need=("name", "served", "storage"),
                name=_WORD,
                served=_FLAG,
                storage=_FLAG,
                schema=_object(openAPIV3Schema=_object(), also=""),
                subresources=_object(),
                additionalPrinterColumns=_list(_object()),
                also="deprecated deprecationWarning selectableFields",
            )
        ),
        also="conversion preserveUnknownFields",
    ),
    status=_STATUS,
)

_SHAPES: dict[str, Schema] = {
    PODS.resource: _POD,
    NODES.resource: _NODE,
    SERVICES.resource: _SERVICE,
    EVENTS.resource: _EVENT,
    NEW_EVENTS.resource: _EVENT,  # as it is stored
    CONFIG_MAPS.resource: _object(data=_WORDS, binaryData=_WORDS, immutable=_FLAG, also=""),
    NAMESPACES.resource: _object(spec=_object(also="finalizers"), status=_STATUS, also=""),
    SERVICE_ACCOUNTS.resource: _object(
        also="automountServiceAccountToken imagePullSecrets secrets"
    ),
    SERVICE_CIDRS.resource: _SERVICE_CIDR,
    DEFINITIONS.resource: _DEFINITION,
}
_PLAIN: Schema = _object(spec=_object(), status=_object())
_METADATA = _object(labels=_WORDS, annotations=_WORDS, finalizers=_list(_WORD))
_COMMON = {"apiVersion": _WORD, "kind": _WORD, "metadata": _METADATA}


def shape_of(kind: Kind) -> Schema:
    """The schema of a built-in kind, with the fields every object has."""
    return whole(_SHAPES.get(kind.resource, _PLAIN))


def whole(own: Schema) -> Schema:
    """A schema with the fields every object has."""
    return own | {"type": "object", "properties": own.get("properties", {}) | _COMMON}


def check(kind: Kind, obj: dict[str, Any]) -> list[Cause]:
    """Every field of a built-in kind's object that has not its shape."""
    return structural.check(shape_of(kind), obj)
