"""Pages and versions of lists."""

import pytest

from lab.api.errors import ApiError
from lab.api.kinds import CONFIG_MAPS, PODS
from lab.api.listing import ListQuery, list_page
from lab.api.presenting import Presenter
from lab.api.selectors import Selection
from lab.api.store import Store
from tests.lab.api.builders import a_config_map, a_pod

ALL = Selection()


def names(page):
    return [record.body["metadata"]["name"] for record in page.records]


def fill(store, count):
    for number in range(count):
        store.create(CONFIG_MAPS, a_config_map(f"c{number}"))


def test_pages_show_one_moment_whatever_happens_between_them(store):
    fill(store, 5)
    first = list_page(store, CONFIG_MAPS, ALL, ListQuery(limit=2))
    store.delete(CONFIG_MAPS, "default", "c3")
    store.create(CONFIG_MAPS, a_config_map("c9"))

    token = first.metadata["continue"]
    second = list_page(store, CONFIG_MAPS, ALL, ListQuery(limit=2, token=token))
    third = list_page(
        store, CONFIG_MAPS, ALL, ListQuery(limit=2, token=second.metadata["continue"])
    )

    assert [names(page) for page in (first, second, third)] == [["c0", "c1"], ["c2", "c3"], ["c4"]]
    versions = {page.metadata["resourceVersion"] for page in (first, second, third)}
    assert len(versions) == 1
    assert first.metadata["remainingItemCount"] == 3
    assert "continue" not in third.metadata


def test_a_token_older_than_the_window_expires_and_offers_an_inconsistent_rest():
    store = Store(history=5)
    fill(store, 5)
    token = list_page(store, CONFIG_MAPS, ALL, ListQuery(limit=2)).metadata["continue"]
    for number in range(6):
        store.create(CONFIG_MAPS, a_config_map(f"d{number}"))

    with pytest.raises(ApiError) as caught:
        list_page(store, CONFIG_MAPS, ALL, ListQuery(limit=2, token=token))
    assert (caught.value.code, caught.value.reason) == (410, "Expired")

    rest = caught.value.status["metadata"]["continue"]
    page = list_page(store, CONFIG_MAPS, ALL, ListQuery(token=rest))
    assert names(page) == ["c2", "c3", "c4", "d0", "d1", "d2", "d3", "d4", "d5"]


def test_a_list_of_an_exact_version_shows_the_past(store):
    fill(store, 2)
    then = store.version
    store.patch(CONFIG_MAPS, "default", "c0", {"data": {"key": "new"}})
    store.delete(CONFIG_MAPS, "default", "c1")

    page = list_page(store, CONFIG_MAPS, ALL, ListQuery(version=str(then), match="Exact"))

    assert names(page) == ["c0", "c1"]
    assert page.records[0].body["data"] == {"key": "value"}
    assert page.metadata["resourceVersion"] == str(then)


def test_version_zero_and_none_show_the_present_and_the_future_is_refused(store):
    fill(store, 1)
    for version in ("", "0", "1"):
        page = list_page(store, CONFIG_MAPS, ALL, ListQuery(version=version))
        assert page.metadata["resourceVersion"] == str(store.version)
    with pytest.raises(ApiError) as caught:
        list_page(store, CONFIG_MAPS, ALL, ListQuery(version=str(store.version + 1)))
    assert caught.value.code == 504
    assert caught.value.details["causes"][0]["reason"] == "ResourceVersionTooLarge"


@pytest.mark.parametrize("query", [ListQuery(token="nonsense"), ListQuery(version="abc")])
def test_a_token_or_version_of_nobody_is_a_bad_request(store, query):
    with pytest.raises(ApiError) as caught:
        list_page(store, CONFIG_MAPS, ALL, query)
    assert caught.value.code == 400


@pytest.mark.parametrize("style", ["object", "table"])
def test_five_thousand_pods_are_listed_whole(store, style):
    for number in range(5000):
        store.create(PODS, a_pod(f"pod-{number}", node="node1"))
    page = list_page(store, PODS, ALL, ListQuery())
    presenter = Presenter(PODS, style=style, include="Metadata", now=store.now())
    body = presenter.many(page.records, page.metadata)
    assert body.count(b'"name":"pod-') >= 5000
