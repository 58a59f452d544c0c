"""Which notices contradict what stands: a table of them, and no kernel."""

import msgspec
import pytest

from services._node.monitor import DELADDR, DELLINK, DELNSID, DELROUTE, DELRULE, NEWLINK, Change
from services.plumber import core
from services.plumber.adapters.tables import PROTOCOL
from services.plumber.model import Found, Lookup, Pair, Place, Rule, render_alias
from services.plumber.service.standing import Standing
from tests.plumber.fakes import as_found
from tests.plumber.grants import a_grant

CLIENT = Place(uid="uid-client", netns="/run/c", cookie=11)
SERVER = Place(uid="uid-server", netns="/run/s", cookie=22)
KEY = a_grant().key
WIRING = core.wiring(a_grant(), CLIENT, SERVER)
assert WIRING.client
assert WIRING.server
PAIR = Pair(
    client=as_found(WIRING.client, WIRING, 100, 200),
    server=as_found(WIRING.server, WIRING, 200, 100),
)
assert PAIR.client
ALIAS = render_alias(WIRING.tag, 1, is_server=False)


def as_told(found: Found, **fields: object) -> Change:
    told = Change(
        found.place.cookie,
        NEWLINK,
        found.index,
        interface=found.interface,
        mac=found.mac,
        mtu=found.mtu,
        alias=ALIAS,
        up=True,
    )
    return told._replace(**fields)  # type: ignore[arg-type]


KNOWN = as_told(PAIR.client)
CONTRADICTIONS = {
    "down": KNOWN._replace(up=False),
    "renamed": KNOWN._replace(interface="mine"),
    "mtu": KNOWN._replace(mtu=1300),
    "mac": KNOWN._replace(mac="02:00:00:00:99:99"),
    "alias": KNOWN._replace(alias=""),
    "deleted": KNOWN._replace(kind=DELLINK),
    "address": Change(11, DELADDR, 100),
    "our route": Change(11, DELROUTE, 100, protocol=PROTOCOL),
    "the other end": Change(22, DELLINK, 200),
}
HARMLESS = {
    "as it was made": KNOWN,
    "another interface": KNOWN._replace(ifindex=101, up=False),
    "another network": KNOWN._replace(cookie=33, up=False),
    "another's address": Change(11, DELADDR, 7),
    "another's route": Change(11, DELROUTE, 100, protocol=2),
    "another's rule": Change(11, DELRULE, protocol=3),
    "our rule of another": Change(11, DELRULE, protocol=PROTOCOL),
}


def a_standing(again: list[object] | None = None) -> Standing:
    standing = Standing((again if again is not None else []).append)
    standing.note(KEY, PAIR)
    return standing


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_what_takes_something_away_is_a_reason_to_look(change: Change) -> None:
    assert a_standing().contradicted([change]) == {KEY}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS.keys())
def test_anything_else_is_none(change: Change) -> None:
    assert a_standing().contradicted([change]) == set()


def test_what_we_remove_ourselves_is_no_news() -> None:
    standing = a_standing()
    standing.forget(KEY)

    assert standing.contradicted(CONTRADICTIONS.values()) == set()
    assert standing.pairs == {}


def test_what_was_deleted_before_it_was_noted_is_looked_at_again() -> None:
    again: list[object] = []
    standing = Standing(again.append)
    assert standing.contradicted([KNOWN._replace(kind=DELLINK)]) == set()

    standing.note(KEY, PAIR)

    assert again == [KEY]


def test_a_rule_of_ours_concerns_who_has_rules_there() -> None:
    standing = a_standing()
    assert PAIR.client
    rule = Lookup(rule=Rule(family=4, priority=100, table=1))
    with_rules = msgspec.structs.replace(
        PAIR, client=msgspec.structs.replace(PAIR.client, lookups=frozenset({rule}))
    )
    standing.note(KEY, with_rules)

    assert standing.contradicted([Change(11, DELNSID)]) == set()
    assert standing.contradicted([Change(11, DELRULE, protocol=PROTOCOL)]) == {KEY}
    assert standing.contradicted([Change(22, DELRULE, protocol=PROTOCOL)]) == set()
    standing.note(KEY, PAIR)
    assert standing.contradicted([Change(11, DELRULE, protocol=PROTOCOL)]) == set()
