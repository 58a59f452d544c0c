"""Owners: which object of Kubernetes a message comes from, so that people are told where they look."""

from typing import Any

from schemas.subjects import EndpointKey, Key, NetworkServiceKey, PrefixKey, RequestKey
from services.watcher import model
from services.watcher.core import prefixes
from services.watcher.model import ObjectRef, Ref

_GROUP = "networkservicemesh.io/v1"
_KINDS: dict[type[Any], tuple[str, str]] = {
    model.Pod: ("v1", "Pod"),
    model.Node: ("v1", "Node"),
    model.ConfigMap: ("v1", "ConfigMap"),
    model.NetworkService: (_GROUP, "NetworkService"),
    model.NetworkServiceEndpoint: (_GROUP, "NetworkServiceEndpoint"),
}


class Owners:
    """`put` objects as they come and go. `excluded` is the ConfigMap of the user's exclusions."""

    def __init__(self, *, excluded: Ref) -> None:
        self._excluded = excluded
        self._uids: dict[tuple[type[Any], Ref], str] = {}

    def put(self, kind: type[Any], ref: Ref, found: model.Object | None) -> None:
        if kind not in _KINDS:
            return
        if found is None:
            self._uids.pop((kind, ref), None)
        else:
            self._uids[kind, ref] = found.uid

    def about(self, kind: type[Any], ref: Ref) -> ObjectRef | None:
        """How an Event names an object; None: it is not there."""
        uid = self._uids.get((kind, ref))
        if uid is None:
            return None
        version, title = _KINDS[kind]
        return ObjectRef(api_version=version, kind=title, namespace=ref[0], name=ref[1], uid=uid)

    def of(self, key: Key) -> ObjectRef | None:
        """Whose message it is; None: nobody's, such as what is gathered from all Services."""
        match key:
            case RequestKey():
                return self.about(model.Pod, (key.namespace, key.pod))
            case EndpointKey():
                return self.about(model.NetworkServiceEndpoint, (key.namespace, key.endpoint))
            case NetworkServiceKey():
                return self.about(model.NetworkService, (key.namespace, key.name))
            case PrefixKey(source="node"):
                return self.about(model.Node, ("", key.optional_name))
            case PrefixKey(source="user"):
                return self.about(model.ConfigMap, self._excluded)
            case PrefixKey(source="cluster", optional_name="kubeadm"):
                return self.about(model.ConfigMap, prefixes.KUBEADM)
        return None
