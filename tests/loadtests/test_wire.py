"""Bytes through both doors of a real scorer, and the two loops over them."""

from __future__ import annotations

import numpy as np
import pytest

from contracts.errors import Unavailable
from contracts.request import Behaviour, ScoreRequest
from loadtests.loops import closed_loop, open_loop
from loadtests.wire import OK, Answer, Door, payload_of, scores_of, wire_to
from serving.app import RunningScorer
from tests.ranker_bundle import recompute
from tests.serving.conftest import WITH_CONTENT, World

REQUESTS = [ScoreRequest(WITH_CONTENT[i : i + 5], [Behaviour(WITH_CONTENT[i + 6])]) for i in range(3)]


def where(running: RunningScorer, door: Door) -> str:
    return running.http_url if door == "http" else running.grpc_target


@pytest.mark.parametrize("door", ["http", "grpc"])
async def test_loops_give_every_answer_with_its_request(
    running: RunningScorer, world: World, door: Door
) -> None:
    records, id_rows = await world.records(), await world.id_rows()
    expected = [recompute(world.bundle, world.generation.space, r, records, id_rows) for r in REQUESTS]
    wire = wire_to(door, where(running, door), 1.0)
    payloads = [payload_of(door, request, 1.0) for request in REQUESTS]
    try:
        closed = await closed_loop(wire, payloads, 2, 0.1)
        opened = await open_loop(wire, payloads, 100, 0.1)
    finally:
        await wire.close()
    assert len(opened.answers) == 10
    assert {n for n, _, _ in closed.answers} == {0, 1, 2}
    for load in (closed, opened):
        assert load.outcomes == {OK: len(load.answers)}
        assert 0 < (load.ms(50, OK) or 0) <= (load.ms(99, OK) or 0)
        assert load.ms(50, "overloaded") is None
        for number, answer, _ in load.answers:
            np.testing.assert_allclose(scores_of(door, answer), expected[number], rtol=0, atol=1e-6)


@pytest.mark.parametrize("door", ["http", "grpc"])
async def test_refusals_are_told_apart(running: RunningScorer, door: Door) -> None:
    wire = wire_to(door, where(running, door), 1.0)
    running.scorer.admission.enter(3_000)
    try:
        answer = await wire.call(payload_of(door, REQUESTS[0], 1.0))
    finally:
        running.scorer.admission.leave(3_000)
        await wire.close()
    assert answer.outcome == "overloaded"
    with pytest.raises(Unavailable, match="overloaded"):
        scores_of(door, answer)


async def test_a_door_that_is_not_there_is_an_outcome() -> None:
    for door, target in (("http", "http://127.0.0.1:9"), ("grpc", "127.0.0.1:9")):
        wire = wire_to(door, target, 1.0)  # type: ignore[arg-type]
        answer: Answer = await wire.call(b"")
        await wire.close()
        assert answer.outcome in ("ConnectionRefusedError", "unavailable")
