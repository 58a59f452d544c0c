"""Intent: the messages that must stand on the bus, kept up to date object by object.

`desired` is a function of the objects and of what stands, never of the order in which they came: the
cost of an object's change is what it touches, the result that of starting from scratch.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from schemas.intent import Endpoint, NetworkService, Request
from schemas.subjects import EndpointKey, Key, NetworkServiceKey, PrefixKey, RequestKey
from services.watcher import model
from services.watcher.core import prefixes, requests, specs
from services.watcher.model import ObjectRef, Pod, Problem, Ref

_GROUP = "networkservicemesh.io/v1"
_NOTHING: dict[Any, Any] = {}


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """What a change may have changed: messages, Pods whose status may read differently, objects with news."""

    keys: set[Key] = msgspec.field(default_factory=set)
    pods: set[Ref] = msgspec.field(default_factory=set)
    notices: set[ObjectRef] = msgspec.field(default_factory=set)


class Intent:
    """The index. `put` an object (None: it is gone) and learn what that touched."""

    def __init__(self, *, system_namespace: str) -> None:
        self.pods: dict[Ref, Pod] = {}
        self.wanted: dict[Ref, requests.Wanted] = {}
        self.notices: dict[ObjectRef, Problem] = {}
        self._desired: dict[Key, Any] = {}
        self._excluded: Ref = (system_namespace, prefixes.EXCLUDED_NAME)
        self._namespaces: dict[str, model.Namespace] = {}
        self._nodes: dict[str, model.Node] = {}
        self._endpoints: dict[str, dict[str, specs.EndpointSpec]] = {}
        self._rules: dict[Ref, model.NetworkService] = {}
        self._problem_refs: dict[tuple[str, Ref], ObjectRef] = {}
        self._pods_of_namespace: dict[str, set[str]] = {}
        self._pods_of_node: dict[str, set[Ref]] = {}
        self._cluster_ips: dict[Ref, tuple[str, ...]] = {}
        self._cluster_ips_changed = False
        self._standing: dict[Ref, dict[Key, Request]] = {}
        self._standing_rules: dict[Key, NetworkService] = {}
        self._put: dict[type[Any], Callable[[Ref, Any, Touched], None]] = {
            model.Pod: self._pod,
            model.Namespace: self._namespace,
            model.Node: self._node,
            model.KubeService: self._kube_service,
            model.ConfigMap: self._config_map,
            model.NetworkService: self._network_service,
            model.NetworkServiceEndpoint: self._endpoint,
        }

    @property
    def desired(self) -> dict[Key, Any]:
        """Every message that must stand, complete."""
        self._gather_cluster_ips()
        return self._desired

    def message(self, key: Key) -> Any:
        """The message that must stand under a key; None: nothing must."""
        if key == prefixes.CLUSTER_IPS:
            self._gather_cluster_ips()
        return self._desired.get(key)

    def put(self, kind: type[Any], ref: Ref, found: Any) -> Touched:
        """An object of Kubernetes as it is now."""
        touched = Touched()
        self._put[kind](ref, found, touched)
        return touched

    def stand(self, key: Key, message: Any) -> Touched:
        """What the stream holds under a key of ours: malformed wishes fall back on it."""
        touched = Touched()
        if isinstance(key, RequestKey):
            self._stand_request(key, message, touched)
        elif isinstance(key, NetworkServiceKey):
            if isinstance(message, NetworkService):
                self._standing_rules[key] = message
            else:
                self._standing_rules.pop(key, None)
            ref = (key.namespace, key.name)
            if ref in self._rules:
                self._network_service(ref, self._rules[ref], touched)
        return touched

    def _stand_request(self, key: RequestKey, message: Any, touched: Touched) -> None:
        ref = (key.namespace, key.pod)
        if isinstance(message, Request):
            self._standing.setdefault(ref, {})[key] = message
        else:
            standing = self._standing.get(ref, {})
            standing.pop(key, None)
            if not standing:
                self._standing.pop(ref, None)
        wanted = self.wanted.get(ref)
        if wanted is not None and wanted.problem is not None:
            self._requests(ref, touched)

    def _pod(self, ref: Ref, pod: Pod | None, touched: Touched) -> None:
        namespace, name = ref
        before = self.pods.get(ref)
        if before is not None:
            _discard(self._pods_of_namespace, namespace, name)
            _discard(self._pods_of_node, before.node, ref)
            del self.pods[ref]
        if pod is not None:
            self.pods[ref] = pod
            self._pods_of_namespace.setdefault(namespace, set()).add(name)
            self._pods_of_node.setdefault(pod.node, set()).add(ref)
        touched.pods.add(ref)
        self._requests(ref, touched)
        for endpoint in self._endpoints.get(namespace, _NOTHING):
            self._endpoint_pod(EndpointKey(namespace, endpoint, name), touched)

    def _namespace(self, ref: Ref, found: model.Namespace | None, touched: Touched) -> None:
        name = ref[1]
        _keep(self._namespaces, name, found)
        for pod in self._pods_of_namespace.get(name, ()):
            self._requests((name, pod), touched)

    def _node(self, ref: Ref, node: model.Node | None, touched: Touched) -> None:
        name = ref[1]
        was_ready = self._ready(name)
        _keep(self._nodes, name, node)
        self._set(PrefixKey("node", name), prefixes.of_node(node) if node else None, touched)
        if self._ready(name) == was_ready:
            return
        for pod in self._pods_of_node.get(name, ()):
            self._requests(pod, touched)
            for endpoint in self._endpoints.get(pod[0], _NOTHING):
                self._endpoint_pod(EndpointKey(pod[0], endpoint, pod[1]), touched)

    def _kube_service(self, ref: Ref, found: model.KubeService | None, touched: Touched) -> None:
        addresses = prefixes.service_ips(found) if found else ()
        if self._cluster_ips.get(ref, ()) == addresses:
            return
        _keep(self._cluster_ips, ref, addresses or None)
        # Gathered when asked for: a first list of 10,000 Services would else gather 10,000 times.
        self._cluster_ips_changed = True
        touched.keys.add(prefixes.CLUSTER_IPS)

    def _gather_cluster_ips(self) -> None:
        if not self._cluster_ips_changed:
            return
        self._cluster_ips_changed = False
        gathered = prefixes.of_services(self._cluster_ips) if self._cluster_ips else None
        _keep(self._desired, prefixes.CLUSTER_IPS, gathered)

    def _config_map(self, ref: Ref, found: model.ConfigMap | None, touched: Touched) -> None:
        if ref == prefixes.KUBEADM:
            told = prefixes.of_kubeadm(found) if found else None
            self._set(PrefixKey("cluster", "kubeadm"), told, touched)
        elif ref == self._excluded:
            excluded, problem = prefixes.of_user(found) if found else (None, None)
            self._set(PrefixKey("user", prefixes.EXCLUDED_NAME), excluded, touched)
            self._notice(("v1", "ConfigMap"), found or ref, problem, touched)

    def _network_service(
        self, ref: Ref, found: model.NetworkService | None, touched: Touched
    ) -> None:
        _keep(self._rules, ref, found)
        key = NetworkServiceKey(*ref)
        told = specs.read_network_service(found) if found else None
        problem = told if isinstance(told, Problem) else None
        # Dropping the rules would open the service to every endpoint of that name: keep what stands.
        message = self._standing_rules.get(key) if isinstance(told, Problem) else told
        self._set(key, message, touched)
        self._notice((_GROUP, "NetworkService"), found or ref, problem, touched)

    def _endpoint(
        self, ref: Ref, found: model.NetworkServiceEndpoint | None, touched: Touched
    ) -> None:
        namespace, name = ref
        told = specs.read_endpoint(found) if found else None
        problem = told if isinstance(told, Problem) else None
        specs_here = self._endpoints.setdefault(namespace, {})
        _keep(specs_here, name, told if isinstance(told, specs.EndpointSpec) else None)
        if not specs_here:
            del self._endpoints[namespace]
        for pod in self._pods_of_namespace.get(namespace, ()):
            self._endpoint_pod(EndpointKey(namespace, name, pod), touched)
        self._notice((_GROUP, "NetworkServiceEndpoint"), found or ref, problem, touched)

    def _requests(self, ref: Ref, touched: Touched) -> None:
        pod = self.pods.get(ref)
        before = self.wanted.get(ref, _UNASKED)
        after = _UNASKED
        if pod is not None:
            after = requests.wanted(
                pod,
                self._namespaces.get(ref[0]),
                node_ready=self._ready(pod.node),
                standing=self._standing.get(ref, _NOTHING).values(),
            )
        if after == before:
            return
        _keep(self.wanted, ref, after if after.asks else None)
        touched.pods.add(ref)
        now = {request.key: request for request in after.requests}
        for request in before.requests:
            if request.key not in now:
                self._set(request.key, None, touched)
        for key, request in now.items():
            self._set(key, request, touched)

    def _endpoint_pod(self, key: EndpointKey, touched: Touched) -> None:
        pod = self.pods.get((key.namespace, key.pod))
        spec = self._endpoints.get(key.namespace, _NOTHING).get(key.endpoint)
        message = None
        if (
            pod is not None
            and spec is not None
            and _serves(pod)
            and spec.selector.selects(pod.labels)
        ):
            message = Endpoint(
                endpoint=key.endpoint,
                pod=requests.pod_ref(pod, node_ready=self._ready(pod.node)),
                ready=pod.ready,
                network_services=spec.network_services,
                labels=spec.labels,
                ipam=spec.ipam,
                routes=spec.routes,
                policies=spec.policies,
                dns=spec.dns,
            )
        self._set(key, message, touched)

    def _ready(self, node: str) -> bool:
        found = self._nodes.get(node)
        return found is None or found.ready

    def _set(self, key: Key, message: Any, touched: Touched) -> None:
        if self._desired.get(key) != message:
            _keep(self._desired, key, message)
            touched.keys.add(key)

    def _notice(
        self,
        kind: tuple[str, str],
        found: model.Object | Ref,
        problem: Problem | None,
        touched: Touched,
    ) -> None:
        ref = found if isinstance(found, tuple) else found.ref
        before = self._problem_refs.pop((kind[1], ref), None)
        known = self.notices.pop(before, None) if before else None
        if isinstance(found, tuple) or problem is None:
            return
        about = ObjectRef(
            api_version=kind[0], kind=kind[1], namespace=ref[0], name=ref[1], uid=found.uid
        )
        self._problem_refs[kind[1], ref] = about
        self.notices[about] = problem
        if (before, known) != (about, problem):
            touched.notices.add(about)


_UNASKED = requests.Wanted()


def _serves(pod: Pod) -> bool:
    return bool(pod.node) and not (pod.terminating or pod.terminal or pod.host_network)


def _keep(table: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _discard(table: dict[Any, set[Any]], key: Any, member: Any) -> None:
    members = table[key]
    members.discard(member)
    if not members:
        del table[key]
