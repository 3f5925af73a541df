"""Names of requests that bring none."""

from __future__ import annotations

from serving.request_ids import RequestIds


def test_no_name_is_given_twice() -> None:
    one, other = RequestIds(), RequestIds()
    names = [ids.next() for _ in range(1_000) for ids in (one, other)]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {32}
    assert names[0] < names[2]
