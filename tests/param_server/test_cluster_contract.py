"""The tests of the shelf on a real cluster: the same ones, with another client."""

from __future__ import annotations

import inspect
from types import ModuleType

from tests.param_server import (
    test_behaviours,
    test_commit_window,
    test_generations,
    test_id_tables,
    test_overlays,
    test_scan,
    test_store,
)
from tests.param_server.clusters import cluster, redis

__all__ = ["cluster", "redis"]

_OF_ONE_SERVER = ("redis.info(", "redis.config", "redis.dbsize(", "redis.scan_iter(", "redis.flushdb(")


def _shared(module: ModuleType) -> dict[str, object]:
    """Its tests that need nothing but a client, and ask it nothing that only one server can answer."""
    found = {}
    for name, test in vars(module).items():
        if not name.startswith("test_") or not inspect.iscoroutinefunction(test):
            continue
        given = {
            argument
            for mark in getattr(test, "pytestmark", [])
            if mark.name == "parametrize"
            for argument in mark.args[0].replace(" ", "").split(",")
        }
        needed = set(inspect.signature(test).parameters) - given - {"tmp_path", "tmp_path_factory"}
        if needed == {"redis"} and not any(words in inspect.getsource(test) for words in _OF_ONE_SERVER):
            found[f"{name}_{module.__name__.rpartition('.')[2].removeprefix('test_')}"] = test
    return found


for _module in (
    test_behaviours,
    test_commit_window,
    test_generations,
    test_id_tables,
    test_overlays,
    test_scan,
    test_store,
):
    globals().update(_shared(_module))


def test_the_contract_is_here() -> None:
    assert sum(name.startswith("test_") and callable(value) for name, value in globals().items()) > 40
