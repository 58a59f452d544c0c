"""Misfits: Pods that a podSelector matches although they use their node's network and can serve nobody.

Both are told: who looks at the Pod, and who wonders why the endpoint has fewer Pods than expected. How many
there are does not change what is said: a DaemonSet of a thousand would else say it a thousand times.
"""

from schemas.subjects import EndpointKey
from services.watcher.core.requests import HOST_NETWORK
from services.watcher.model import Problem, Ref


class Misfits:
    """`put` pairs of endpoint and Pod as they are judged."""

    def __init__(self) -> None:
        self._pods: dict[Ref, set[str]] = {}  # by endpoint
        self._endpoints: dict[Ref, set[str]] = {}  # by Pod

    def put(self, key: EndpointKey, *, misfit: bool) -> bool:
        """Whether that is news."""
        endpoint, pod = (key.namespace, key.endpoint), (key.namespace, key.pod)
        if misfit == (key.pod in self._pods.get(endpoint, ())):
            return False
        for table, ref, name in (
            (self._pods, endpoint, key.pod),
            (self._endpoints, pod, key.endpoint),
        ):
            members = table.setdefault(ref, set())
            if misfit:
                members.add(name)
            else:
                members.discard(name)
            if not members:
                del table[ref]
        return True

    def of_pod(self, ref: Ref) -> Problem | None:
        """What to tell about a Pod."""
        endpoints = self._endpoints.get(ref)
        if not endpoints:
            return None
        return Problem(
            reason=HOST_NETWORK,
            message="the Pod uses its node's network (hostNetwork) and serves no client, though "
            f"NetworkServiceEndpoint {min(endpoints)} selects it; remove hostNetwork or that label",
        )

    def of_endpoint(self, ref: Ref) -> Problem | None:
        """What to tell about a NetworkServiceEndpoint."""
        pods = self._pods.get(ref)
        if not pods:
            return None
        return Problem(
            reason=HOST_NETWORK,
            message=f"podSelector matches Pods that use their node's network (hostNetwork), such as {min(pods)}: "
            "they serve no client; remove hostNetwork there, or select others",
        )
