from typing import Any

import msgspec

from schemas.codec import Tombstone
from services.plumber import core
from services.plumber.model import Applied, Pair, Place, Waiting
from services.plumber.service.past import Past, reported_as
from tests.plumber.grants import NODE, a_grant, a_pod, with_client

FIRST = a_grant()
HEIR = with_client(a_grant(), pod=a_pod("client", uid="uid-heir"))
KEY = FIRST.key


def applied(grant: Any) -> Applied:
    place = Place(uid="u", netns="/run/netns/u", cookie=1)
    return Applied(grant=grant, client=place, server=place)


def said(grant: Any) -> dict[Any, Any]:
    status = core.status(grant, node=NODE, pair=Pair(), waiting=Waiting())
    return {reported_as(KEY): status}


def test_the_newest_revision_that_anybody_remembers_is_the_one_that_ended() -> None:
    newer = msgspec.structs.replace(FIRST, revision=7)
    released = Tombstone(released="uid-client", revision=3)
    past = Past(said(FIRST), {KEY: applied(newer)})
    past.note(KEY, FIRST)
    past.note(KEY, released)

    assert past.newest(KEY) == ("uid-client", 7)


def test_what_nobody_remembers_has_no_revision() -> None:
    assert Past({}, {}).newest(KEY) is None


def test_a_former_pod_is_known_from_its_grant_its_links_or_its_status() -> None:
    granted = Past({}, {})
    granted.note(KEY, FIRST)
    granted.note(KEY, HEIR)

    for past in (granted, Past({}, {KEY: applied(FIRST)}), Past(said(FIRST), {})):
        assert past.former(KEY, HEIR) == ("uid-client", 1)
        past.bury_former(KEY, ("uid-client", 1))
    assert granted.former(KEY, HEIR) is None


def test_an_echo_of_the_former_pod_is_no_reason_to_touch_the_new_one() -> None:
    past = Past(said(FIRST), {KEY: applied(HEIR)})

    assert past.former(KEY, HEIR) is None


def test_the_same_pod_is_no_former_one() -> None:
    past = Past(said(FIRST), {})
    past.note(KEY, FIRST)
    past.note(KEY, msgspec.structs.replace(FIRST, revision=2))

    assert past.former(KEY, msgspec.structs.replace(FIRST, revision=2)) is None


def test_a_pod_that_was_replaced_while_its_former_was_buried_is_buried_next() -> None:
    past = Past({}, {})
    for grant in (FIRST, HEIR):
        past.note(KEY, grant)
    former = past.former(KEY, HEIR)
    assert former == ("uid-client", 1)

    third = with_client(HEIR, pod=a_pod("client", uid="uid-third"))
    past.note(KEY, third)
    past.bury_former(KEY, former)

    assert past.former(KEY, third) == ("uid-heir", 2)
