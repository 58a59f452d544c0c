"""Nothing empty stays in a table: hundreds of thousands of Pods come and go."""

from services.watcher.core.tables import discard, keep


def test_none_takes_out_what_is_there_and_what_is_not():
    table = {"a": 1}
    keep(table, "b", 0)
    assert table == {"a": 1, "b": 0}
    keep(table, "a", None)
    keep(table, "a", None)
    assert table == {"b": 0}


def test_a_set_goes_with_its_last_member():
    table = {"a": {1, 2}, "b": {1}}
    discard(table, "a", 1)
    discard(table, "a", 3)
    assert table == {"a": {2}, "b": {1}}
    discard(table, "a", 2)
    assert table == {"b": {1}}
