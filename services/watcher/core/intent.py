"""Intent: the messages that must stand on the bus, kept up to date object by object.

`desired` is a function of the objects and of what stands, never of the order in which they came: the
cost of an object's change is what it touches, the result that of starting from scratch.
"""

from collections.abc import Callable, Hashable
from typing import Any

import msgspec

from schemas.intent import Endpoint, NetworkService, PrefixesInUse, Request
from schemas.subjects import EndpointKey, Key, NetworkServiceKey, PrefixKey, RequestKey
from services.watcher import model
from services.watcher.core import misfits, offers, owners, prefixes, requests, specs, spoiled
from services.watcher.core.addresses import Addresses
from services.watcher.core.tables import discard, keep
from services.watcher.model import ObjectRef, Pod, Problem, Ref, Subject

_NOTHING: dict[Any, Any] = {}


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """What a change may have changed: messages, Pods whose status may read differently, objects with news."""

    keys: set[Key] = msgspec.field(default_factory=set)
    pods: set[Ref] = msgspec.field(default_factory=set)
    notices: set[ObjectRef] = msgspec.field(default_factory=set)
    idle: set[Ref] = msgspec.field(default_factory=set)  # endpoints that may have come to be so


class Intent:
    """The index. `put` an object (None: it is gone) and learn what that touched."""

    def __init__(self, *, system_namespace: str) -> None:
        self.pods: dict[Ref, Pod] = {}
        self.wanted: dict[Ref, requests.Wanted] = {}
        self.unheeded: dict[Ref, None] = {}  # Pods whose annotation has no effect as it is written
        self.notices: dict[ObjectRef, Problem] = {}
        self.objects: dict[Subject, model.OurObject] = {}
        self._desired: dict[Key, Any] = {}
        self._excluded: Ref = (system_namespace, prefixes.EXCLUDED_NAME)
        self._owners = owners.Owners(excluded=self._excluded)
        self._namespaces: dict[str, model.Namespace] = {}
        self._nodes: dict[str, model.Node] = {}
        self._endpoints: dict[str, dict[str, offers.Written]] = {}
        self._problem_refs: dict[tuple[type[Any], Ref], ObjectRef] = {}
        self._bad_specs: dict[Subject, Problem] = {}
        self._misfits = misfits.Misfits()
        self.spoiled = spoiled.Spoiled()
        self._pods_of_namespace: dict[str, set[str]] = {}
        self._pods_of_node: dict[str, set[Ref]] = {}
        self._service_addresses = Addresses("service", "Service")
        self._pod_addresses = Addresses("pod", "Pod")
        self._kube_services: dict[Ref, tuple[str, ...]] = {}
        self._standing: dict[Ref, dict[Key, Request]] = {}
        self._standing_rules: dict[Key, NetworkService] = {}
        self._standing_endpoints: dict[Key, Endpoint] = {}
        self._exclusions: set[Key] = set()  # keys that they stand under, should stand, or once did
        self._standing_exclusions: dict[Key, PrefixesInUse] = {}
        self._is_misread = False  # something of the user's exclusions cannot be read
        self._excluding: model.ConfigMap | None = None
        self._put: dict[type[Any], Callable[[Ref, Any, Touched], None]] = {
            model.Pod: self._pod,
            model.Namespace: self._namespace,
            model.Node: self._node,
            model.KubeService: self._kube_service,
            model.ServiceCidr: self._service_cidr,
            model.ConfigMap: self._config_map,
            model.NetworkService: self._network_service,
            model.NetworkServiceEndpoint: self._endpoint,
        }

    @property
    def desired(self) -> dict[Key, Any]:
        """Every message that must stand, complete."""
        self._gather()
        return self._desired

    def message(self, key: Key) -> Any:
        """The message that must stand under a key; None: nothing must."""
        if isinstance(key, PrefixKey):
            self._gather()
        return self._desired.get(key)

    @property
    def exclusions(self) -> set[Key]:
        """Every key that the user's exclusions stand under, should stand, or once did."""
        return set(self._exclusions)

    def owner(self, key: Key) -> ObjectRef | None:
        """The object that a message comes from, if it is a single one."""
        return self._owners.of(key)

    def about(self, kind: type[Any], ref: Ref) -> ObjectRef | None:
        """How an Event names an object; None: it is not there."""
        return self._owners.about(kind, ref)

    def misread(self) -> Problem | None:
        """What of the user's exclusions cannot be understood."""
        about = self._problem_refs.get((model.ConfigMap, self._excluded))
        return self.notices.get(about) if about else None

    def spec_problem(self, subject: Subject) -> Problem | None:
        """Why the spec of an object of ours means nothing."""
        return self._bad_specs.get(subject)

    def idle(self, endpoint: Ref) -> Problem | None:
        """What to tell about an endpoint without Pods, unless they are there and can serve nobody."""
        found = self.spoiled.idle(endpoint)
        return found if self._misfits.of_endpoint(endpoint) is None else None

    def pods_on(self, node: str) -> set[Ref]:
        """The Pods of a node."""
        return set(self._pods_of_node.get(node, ()))

    def unready_nodes(self) -> dict[str, list[Ref]]:
        """Nodes that Kubernetes calls not Ready, or does not know, with their Pods that ask for something."""
        unready = {
            node: [ref for ref in pods if ref in self.wanted and self.wanted[ref].requests]
            for node, pods in self._pods_of_node.items()
            if node and not self._ready(node)
        }
        return {node: asking for node, asking in unready.items() if asking}

    def put(self, kind: type[Any], ref: Ref, found: Any) -> Touched:
        """An object of Kubernetes as it is now."""
        touched = Touched()
        self._owners.put(kind, ref, found)
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
            found = self.objects.get((model.NetworkService, ref))
            if isinstance(found, model.NetworkService):
                self._network_service(ref, found, touched)
        elif isinstance(key, EndpointKey):
            keep(self._standing_endpoints, key, message if isinstance(message, Endpoint) else None)
            written = self._endpoints.get(key.namespace, _NOTHING).get(key.endpoint)
            if written is not None and written.spec is None:
                self._endpoint_pod(key, touched)
        elif isinstance(key, PrefixKey) and key.source == prefixes.EXCLUDED.source:
            self._exclusions.add(key)
            standing = message if isinstance(message, PrefixesInUse) else None
            keep(self._standing_exclusions, key, standing)
            if (
                self._is_misread
            ):  # else what stands decides nothing, and reading thousands of lines takes its time
                self._exclude(touched)
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
            discard(self._pods_of_namespace, namespace, name)
            discard(self._pods_of_node, before.node, ref)
            del self.pods[ref]
        if pod is not None:
            self.pods[ref] = pod
            self._pods_of_namespace.setdefault(namespace, set()).add(name)
            self._pods_of_node.setdefault(pod.node, set()).add(ref)
        old, new = (each.own_ips if each is not None else () for each in (before, pod))
        if old != new:
            touched.keys.update(self._pod_addresses.put(ref, old, new))
        touched.pods.add(ref)
        self._requests(ref, touched)
        for endpoint in self._endpoints.get(namespace, _NOTHING):
            self._endpoint_pod(EndpointKey(namespace, endpoint, name), touched)
        # Another Pod of that name is another object to tell.
        self._notice_pod(ref, touched)

    def _namespace(self, ref: Ref, found: model.Namespace | None, touched: Touched) -> None:
        name = ref[1]
        keep(self._namespaces, name, found)
        for pod in self._pods_of_namespace.get(name, ()):
            self._requests((name, pod), touched)

    def _node(self, ref: Ref, node: model.Node | None, touched: Touched) -> None:
        name = ref[1]
        was_ready = self._ready(name)
        keep(self._nodes, name, node)
        told = prefixes.of_node(node) if node else None
        self._set(PrefixKey("node", name), told, touched)
        self._know(self._pod_addresses, ("node", name), told, touched)
        if self._ready(name) == was_ready:
            return
        for pod in self._pods_of_node.get(name, ()):
            self._requests(pod, touched)
            for endpoint in self._endpoints.get(pod[0], _NOTHING):
                self._endpoint_pod(EndpointKey(pod[0], endpoint, pod[1]), touched)

    def _kube_service(self, ref: Ref, found: model.KubeService | None, touched: Touched) -> None:
        before, now = self._kube_services.get(ref, ()), found.addresses if found else ()
        keep(self._kube_services, ref, now or None)
        touched.keys.update(self._service_addresses.put(ref, before, now))

    def _service_cidr(self, ref: Ref, found: model.ServiceCidr | None, touched: Touched) -> None:
        name = ref[1]
        told = prefixes.of_service_cidr(name, found.spec.cidrs or ()) if found else None
        self._set(prefixes.service_cidr_key(name), told, touched)
        self._know(self._service_addresses, ("service cidr", name), told, touched)

    def _know(
        self, addresses: Addresses, owner: Hashable, told: PrefixesInUse | None, touched: Touched
    ) -> None:
        touched.keys.update(addresses.know(owner, told.prefixes if told else ()))

    def _gather(self) -> None:
        # When asked for: a first list of 10,000 Services would else write a block 256 times.
        for addresses in (self._service_addresses, self._pod_addresses):
            for key, message in addresses.gather().items():
                keep(self._desired, key, message)

    def _config_map(self, ref: Ref, found: model.ConfigMap | None, touched: Touched) -> None:
        if ref == prefixes.KUBEADM:
            told = prefixes.of_kubeadm(found) if found else None
            self._set(PrefixKey("cluster", "kubeadm"), told, touched)
            for addresses in (self._service_addresses, self._pod_addresses):
                self._know(addresses, "kubeadm", told, touched)
        elif ref == self._excluded:
            self._excluding = found
            self._exclude(touched)

    def _exclude(self, touched: Touched) -> None:
        excluded, problem = (
            prefixes.of_user(self._excluding, self._standing_exclusions.values())
            if self._excluding
            else ((), None)
        )
        self._is_misread = problem is not None
        now: dict[Key, PrefixesInUse] = {part.key: part for part in excluded}
        self._exclusions |= now.keys()
        for key in self._exclusions:
            self._set(key, now.get(key), touched)
        self._notice(model.ConfigMap, self._excluded, problem, touched)

    def _network_service(
        self, ref: Ref, found: model.NetworkService | None, touched: Touched
    ) -> None:
        subject = (model.NetworkService, ref)
        keep(self.objects, subject, found)
        key = NetworkServiceKey(*ref)
        told = specs.read_network_service(found) if found else None
        problem = told if isinstance(told, Problem) else None
        keep(self._bad_specs, subject, problem)
        # Dropping the rules would open the service to every endpoint of that name: keep what stands.
        message = self._standing_rules.get(key) if isinstance(told, Problem) else told
        self._set(key, message, touched)
        self._notice(model.NetworkService, ref, problem, touched)

    def _endpoint(
        self, ref: Ref, found: model.NetworkServiceEndpoint | None, touched: Touched
    ) -> None:
        namespace, name = ref
        told = specs.read_endpoint(found) if found else None
        problem = told if isinstance(told, Problem) else None
        written_here = self._endpoints.setdefault(namespace, {})
        before = written_here.get(name)
        after = None
        if found is not None:
            kept = before.spec if before is not None else None
            spec = told if isinstance(told, specs.EndpointSpec) else kept
            after = offers.Written(spec=spec, problem=problem)
        keep(written_here, name, after)
        if not written_here:
            del self._endpoints[namespace]
        # Its own status changes an object every second: that is no reason to look at every Pod.
        for pod in () if after == before else self._pods_of_namespace.get(namespace, ()):
            self._endpoint_pod(EndpointKey(namespace, name, pod), touched)
        keep(self.objects, (model.NetworkServiceEndpoint, ref), found)
        keep(self._bad_specs, (model.NetworkServiceEndpoint, ref), problem)
        names = specs.names_in(found.spec) if found is not None else None
        touched.pods.update(self.spoiled.put(ref, names, problem))
        if after != before:
            touched.idle.add(ref)
        self._notice_endpoint(ref, touched)

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
        # Before what it asks for is compared: a Pod that ends asks for the same as ever.
        if pod is not None and requests.is_unheeded(pod, after):
            self.unheeded[ref] = None
        else:
            self.unheeded.pop(ref, None)
        if after == before:
            return
        keep(self.wanted, ref, after if after.asks else None)
        self.spoiled.ask(ref, before.requests, after.requests)
        touched.pods.add(ref)
        now = {request.key: request for request in after.requests}
        for request in before.requests:
            if request.key not in now:
                self._set(request.key, None, touched)
        for key, request in now.items():
            self._set(key, request, touched)

    def _endpoint_pod(self, key: EndpointKey, touched: Touched) -> None:
        pod = self.pods.get((key.namespace, key.pod))
        written = self._endpoints.get(key.namespace, _NOTHING).get(key.endpoint)
        message = None
        if pod is not None and written is not None:
            standing, ready = self._standing_endpoints.get(key), self._ready(pod.node)
            message = offers.offer(key.endpoint, pod, written, standing, node_ready=ready)
        before = self._desired.get(key)
        if before != message:
            keep(self._desired, key, message)
            touched.keys.add(key)
            if before is None or message is None:
                endpoint = (key.namespace, key.endpoint)
                touched.pods.update(self.spoiled.serve(endpoint, 1 if before is None else -1))
                touched.idle.add(endpoint)
        if self._misfits.put(key, misfit=offers.misfit(pod, written)):
            self._notice_pod((key.namespace, key.pod), touched)
            self._notice_endpoint((key.namespace, key.endpoint), touched)
            touched.idle.add((key.namespace, key.endpoint))

    def _ready(self, node: str) -> bool:
        found = self._nodes.get(node)
        return found is not None and found.ready

    def _set(self, key: Key, message: Any, touched: Touched) -> None:
        if self._desired.get(key) != message:
            keep(self._desired, key, message)
            touched.keys.add(key)

    def _notice_pod(self, ref: Ref, touched: Touched) -> None:
        problem, pod = self._misfits.of_pod(ref), self.pods.get(ref)
        if problem is None and pod is not None:
            problem = requests.capture_problem(pod)
        self._notice(model.Pod, ref, problem, touched)

    def _notice_endpoint(self, ref: Ref, touched: Touched) -> None:
        problem = self._bad_specs.get((model.NetworkServiceEndpoint, ref))
        problem = problem or self._misfits.of_endpoint(ref)
        self._notice(model.NetworkServiceEndpoint, ref, problem, touched)

    def _notice(self, kind: type[Any], ref: Ref, problem: Problem | None, touched: Touched) -> None:
        before = self._problem_refs.pop((kind, ref), None)
        known = self.notices.pop(before, None) if before else None
        about = self._owners.about(kind, ref)
        if about is None or problem is None:
            return
        self._problem_refs[kind, ref] = about
        self.notices[about] = problem
        if (before, known) != (about, problem):
            touched.notices.add(about)


_UNASKED = requests.Wanted()
