"""Spoiled offers: endpoints that cannot be read or have no Pod, and those who wait for what they would offer.

ipam hears of neither, so who asks in vain is told here what is wrong. What an object's change costs is what it
touches: the endpoints of one network service, and the Pods that ask for it.
"""

from collections.abc import Callable, Iterable

import msgspec

from schemas.grant import Refusal
from schemas.intent import Request
from schemas.reasons import NO_ENDPOINT
from services.watcher.core.tables import discard, keep
from services.watcher.model import Problem, Ref

_NOTHING: frozenset[str] = frozenset()

Offer = tuple[str, str]  # a network service: its namespace, and its name


class Spoiled:
    """`put` endpoints as they are written, `serve` those that have Pods, and say who `ask`s."""

    def __init__(self) -> None:
        self._names: dict[Ref, frozenset[str]] = {}  # what an endpoint names
        self._naming: dict[Offer, set[Ref]] = {}  # the endpoints that name it
        self._problems: dict[Ref, Problem] = {}
        self._pods: dict[Ref, int] = {}  # of an endpoint, those that can serve
        self._asking: dict[Offer, set[Ref]] = {}  # Pods

    def put(
        self, endpoint: Ref, names: Iterable[str] | None, problem: Problem | None = None
    ) -> set[Ref]:
        """An endpoint as it is written, or None; those who may hear something else now."""
        before, after = self._names.get(endpoint, _NOTHING), frozenset(names or ())
        changed = before ^ after
        if problem != self._problems.get(endpoint):
            changed = before | after
        for name in before - after:
            discard(self._naming, (endpoint[0], name), endpoint)
        for name in after - before:
            self._naming.setdefault((endpoint[0], name), set()).add(endpoint)
        keep(self._names, endpoint, after if names is not None else None)
        keep(self._problems, endpoint, problem)
        return self._listening(endpoint, changed)

    def serve(self, endpoint: Ref, more: int) -> set[Ref]:
        """So many Pods more can serve; those who may hear something else now."""
        before = self._pods.get(endpoint, 0)
        after = before + more
        keep(self._pods, endpoint, after or None)
        if before and after:
            return set()
        return self._listening(endpoint, self._names.get(endpoint, ()))

    def ask(self, pod: Ref, before: Iterable[Request], after: Iterable[Request]) -> None:
        """What a Pod asks for, and asked for before."""
        was, now = set(map(_offer, before)), set(map(_offer, after))
        for each in was - now:
            discard(self._asking, each, pod)
        for each in now - was:
            self._asking.setdefault(each, set()).add(pod)

    def idle(self, endpoint: Ref) -> Problem | None:
        """What to tell about an endpoint that can be read and has no Pod to serve with."""
        if endpoint not in self._names or endpoint in self._problems or endpoint in self._pods:
            return None
        return idle(endpoint)

    def all_idle(self) -> list[Ref]:
        """Every such endpoint."""
        return [each for each in self._names if self.idle(each) is not None]

    def why(self, namespace: str, network_service: str) -> Problem | None:
        """What is wrong with an endpoint that names what nobody serves: first what cannot be read, then who is idle."""
        if self._is_served((namespace, network_service)):
            return None  # ipam knows better
        found = self._naming.get((namespace, network_service), ())
        bad = min((each for each in found if each in self._problems), default=None)
        if bad is not None:
            return self._problems[bad]
        without = min((each for each in found if each not in self._pods), default=None)
        return idle(without) if without is not None else None

    def _listening(self, endpoint: Ref, names: Iterable[str]) -> set[Ref]:
        """Who asks for one of these and hears of this endpoint: where another one serves, ipam knows better."""
        offers = [(endpoint[0], each) for each in names]
        unserved = [each for each in offers if not self._is_served(each, apart_from=endpoint)]
        return set().union(*(self._asking.get(each, ()) for each in unserved))

    def _is_served(self, offer: Offer, *, apart_from: Ref | None = None) -> bool:
        # One that cannot be read goes on offering what it did before, whatever it names now.
        return any(
            each in self._pods and each not in self._problems and each != apart_from
            for each in self._naming.get(offer, ())
        )


def idle(endpoint: Ref) -> Problem:
    """That an endpoint has no Pod to serve with."""
    namespace, name = endpoint
    return Problem(
        reason=NO_ENDPOINT,
        message=f"NetworkServiceEndpoint {namespace}/{name} is there, but its podSelector matches no Pod that can "
        f"serve (on a node, not ended, in a network of its own); {remedy(namespace)}",
    )


def remedy(namespace: str) -> str:
    """What to do about an endpoint without Pods."""
    return (
        "correct its podSelector, or a Pod's labels, or start a Pod: "
        f"kubectl -n {namespace} get pods --show-labels"
    )


def home(request: Request) -> str:
    """The namespace whose network service is meant, as far as the request says."""
    return request.network_service_namespace or request.pod.namespace


def explained(
    request: Request, refusal: Refusal, why: Callable[[str, str], Problem | None]
) -> Refusal:
    """Who asks for what nobody offers hears what is wrong with an endpoint that should."""
    if refusal.reason != NO_ENDPOINT:
        return refusal
    problem = why(*_offer(request))
    if problem is None:
        return refusal
    message = f"network service {request.network_service}: {problem.message}"
    return msgspec.structs.replace(refusal, reason=problem.reason, message=message)


def _offer(request: Request) -> Offer:
    return home(request), request.network_service
