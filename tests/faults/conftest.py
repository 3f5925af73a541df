"""What the fault tests share: servers that can be hurt, an encoder, and a count of how everything ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from contracts.bundle import Bundle
from tests.encoder_bundle import make_encoder_bundle
from tests.faults.faulty_server import FaultyServer

_LINES = pytest.StashKey[list[tuple[str, Counter[str]]]]()


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.set_num_threads(1)
    return make_encoder_bundle(tmp_path_factory.mktemp("encoder") / "bundle")


@pytest.fixture
def table_server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def stream_server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


@pytest.fixture
def outcomes(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """How often what happened in a test; a line of `make test-faults`."""
    counted: Counter[str] = Counter()
    yield counted
    request.config.stash.setdefault(_LINES, []).append((request.node.name, counted))


def pytest_unconfigure(config: pytest.Config) -> None:
    """A line per test, and all of them together as the last."""
    lines = config.stash.get(_LINES, [])
    if not lines or config.option.markexpr != "faults":
        return
    for name, counted in lines:
        print(f"{name}: {', '.join(f'{what} {count:,}' for what, count in counted.items())}")
    total: Counter[str] = Counter()
    for _, counted in lines:
        total.update(counted)  # keeps zeros
    print(json.dumps({"tests": len(lines), **total}))
