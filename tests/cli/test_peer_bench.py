"""`repcenter bench peers`: what peers are given is what the scorer reads; who cannot be there is left out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from redis.asyncio import Redis

from cli.peer_bench import PeerOptions, run
from cli.peer_case import CACHED, CONNECTIONS, STORED, Case, Contender, Round, compared, peer_cases
from cli.peer_report import lines
from cli.peer_rows import PREFIX, check_plain, load_rows, peer_rows, write_rows
from cli.peer_server import PEERS, peer_environment, peer_server
from cli.process_tree import ProcessTree, ending_on_sigterm
from cli.serve_world import serve_world
from contracts.codec import Rows, encode_id_rows, encode_records, tombstones
from contracts.errors import InvalidInput, Unavailable
from contracts.features import assemble, item_inputs
from contracts.items import AttributeField
from contracts.request import Behaviour, ScoreRequest
from contracts.schema import FeatureSchema, FieldEncoding
from loadtests.peers.given import Given
from loadtests.peers.ranker import ask, row_inputs, status_names
from loadtests.peers.rows import row_source
from param_server.embedded import EmbeddedServer
from param_server.peer_environment import FAILURES, why
from serving.client import score_body

ROOT = Path(__file__).parents[2]
IDS = [f"item {n} 🪔" for n in range(50)]
SCHEMA = FeatureSchema(4, 8, ())
REQUESTS = [
    ScoreRequest(IDS[3:9], [Behaviour(item_id) for item_id in IDS[5:12]]),  # longer than the history
    ScoreRequest([IDS[20], "nobody", IDS[20]], [Behaviour(IDS[49])]),
    ScoreRequest([IDS[0]], []),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="follows processes by /proc")


@pytest.fixture(scope="module")
def rows() -> tuple[Rows, Rows]:
    """Of IDS: the first is deleted, the second lacks a modality, every third has no ID row."""
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(len(IDS), dim)).astype(np.float32) for dim in (16, 12)]
    vectors[1][1] = 0
    sequences = np.arange(1, len(IDS) + 1, dtype=np.uint64)
    records = encode_records(vectors, sequences, np.zeros((len(IDS), 0), np.uint32))
    records[:1] = tombstones(records.dtype, sequences[:1])
    evidence = rng.uniform(0, 5, len(IDS)).astype(np.float32)
    id_rows = encode_id_rows(rng.normal(size=(len(IDS), 8)).astype(np.float32), evidence)
    id_rows[::3] = np.zeros(1, id_rows.dtype)
    return records, id_rows


def given(tmp_path: Path, redis_url: str = "") -> Given:
    return Given("graph.onnx", str(tmp_path / "rows.npz"), "", redis_url, PREFIX, SCHEMA.history_length)


@pytest.mark.parametrize("place", ["process", "redis"])
async def test_peers_make_the_inputs_that_the_scorer_makes(
    rows: tuple[Rows, Rows], tmp_path: Path, server: EmbeddedServer, redis: Redis, place: str
) -> None:
    records, id_rows = rows
    whole = peer_rows(records, id_rows)
    write_rows(IDS, whole, tmp_path / "rows.npz")
    load_rows(IDS, whole, server.url)
    asked = ask([orjson.loads(score_body(request)) for request in REQUESTS], SCHEMA.history_length)
    source = row_source(given(tmp_path, server.url if place == "redis" else ""))
    read, fetched = source.read(asked.ids), await source.fetch(asked.ids)
    await source.close()
    assert read.tobytes() == fetched.tobytes()

    assembled = assemble(REQUESTS, SCHEMA)
    place_of = {item_id: n for n, item_id in enumerate(IDS)}
    at = np.array([place_of.get(item_id, -1) for item_id in assembled.item_ids])
    found = at >= 0
    ours, our_ids = (np.where(found, column[at], np.zeros(1, column.dtype)) for column in rows)
    expected = {
        **item_inputs(ours, found, our_ids, our_ids["version"] != 0, SCHEMA),
        **assembled.inputs(),
    }
    assert asked.ids == assembled.item_ids
    made = row_inputs(read) | asked.arrays
    assert made.keys() == expected.keys()
    for name, array in expected.items():
        assert made[name].dtype == array.dtype, name
        np.testing.assert_array_equal(made[name], array, err_msg=name)


def test_statuses_are_the_scorers(rows: tuple[Rows, Rows], tmp_path: Path) -> None:
    write_rows(IDS, peer_rows(*rows), tmp_path / "rows.npz")
    read = row_source(given(tmp_path)).read([IDS[0], IDS[1], "nobody", IDS[3]])
    assert status_names(read) == ["missing", "missing", "ok", "missing", "ok"]
    cold = read.copy()
    cold["version"] = 0
    assert status_names(cold)[2] == "cold"


def test_a_ranker_that_reads_columns_is_refused() -> None:
    check_plain(SCHEMA)
    genre = FieldEncoding(AttributeField("genre", "categorical", 2), "hash", buckets=4)
    with pytest.raises(InvalidInput, match="genre"):
        check_plain(FeatureSchema(4, 8, (genre,)))


def test_what_a_peer_is_given_is_read_as_written(tmp_path: Path) -> None:
    wanted = Given(
        "a b.onnx", "rows.npz", "", "unix:///tmp/x", PREFIX, 1_000, tuned=True, batch=4, batch_s=1e-3
    )
    wanted.write(tmp_path / "given.json")
    assert Given.read(tmp_path / "given.json") == wanted


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(FAILURES) as failed:
        peer_environment("bentoml", tmp_path / "bentoml")
    assert "No matching distribution found for bentoml" in why(failed.value)


@linux
def test_a_peer_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    python = Path(sys.executable)  # litserve is not in it
    with (
        pytest.raises(Unavailable, match=r"litserve did not start: [\s\S]*No module named 'litserve'"),
        peer_server("litserve", python, given(tmp_path), b"{}", tmp_path / "scratch", None),
    ):
        pass
    assert _of(tmp_path) == []


@linux
def test_a_tree_is_stopped_and_killed_whole_also_with_sessions_of_its_own() -> None:
    inner = "import time; print('up', flush=True)\nwhile True: pass"
    outer = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {inner!r}], start_new_session=True)"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        tree = ProcessTree(process.pid)
        pids = tree.pids()
        assert pids[0] == process.pid
        assert len(pids) == 2
        tree.pause()
        while {_state(pid) for pid in pids} != {"T"}:  # a signal is on its way for a moment
            pass
        stopped = tree.cpu_s()
        assert tree.since(stopped) == 0
        tree.resume()
        while not tree.since(stopped) > 0.02:  # it works again
            pass
        tree.kill()
        assert process.wait(30) == -signal.SIGKILL
        while _state(pids[1]) not in ("", "Z"):
            pass


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@linux
def test_sigterm_unwinds_the_stack() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ending_on_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


@linux
def test_the_best_of_each_peer_counts() -> None:
    tree = ProcessTree(os.getpid())

    def contender(case: Case, *rps: float) -> Contender:
        rounds = [Round(value, 1e3 / value, 2.0, 3.0) for value in rps]
        return Contender(case, "http://127.0.0.1:1/v1/score", tree, {CONNECTIONS: rounds})

    plain, _, tuned, stored, literal, _ = peer_cases("bentoml")
    ours = [contender(CACHED, 590, 600, 1_000), contender(STORED, 300)]
    assert compared(ours)["ratio_serving_graph"] is None
    everybody = [
        *ours,
        contender(plain, 300),
        contender(tuned, 400),
        contender(stored, 200),
        contender(literal, 50),
        contender(peer_cases("litserve")[-1], 250),
    ]
    result = compared(everybody)
    assert result == {
        "ours_rps": 600,
        "litserve_rps": 250,
        "bentoml_rps": 400,
        "ratio_serving_graph": 1.5,
        "ratio_documented": 2.0,
        "ratio_literal": 12.0,
        "ratio_redis": 1.5,
        "ratio_cpu": 1.5,
    }
    text = lines(
        {
            **result,
            "ratio_literal": None,
            "connections": CONNECTIONS,
            "cases": [contender.figures() for contender in everybody],
            "half_load": {"rate": 25.0, "seconds": 1, "waits": {CACHED.name: {"p50_ms": 1, "p99_ms": 2}}},
            "left_out": {"litserve": "no wheel"},
            "compared": 1_000,
        }
    )
    assert "bentoml, serving, process, tuned" in text
    assert "litserve, serving, process, tuned, up to 4" in text
    assert "left out, litserve: no wheel" in text
    assert "literal graph nobody" in text


@linux
@pytest.mark.benches
def test_bench_peers_gives_its_keys(tmp_path: Path) -> None:
    serve_world(tmp_path / "serve" / "world", steps=2)
    for peer in PEERS:  # made once
        (ROOT / "var" / "bench" / peer).mkdir(parents=True, exist_ok=True)
        (tmp_path / peer).symlink_to(ROOT / "var" / "bench" / peer)
    said: list[str] = []
    options = PeerOptions(rounds=1, seconds=0.2, others=(1,), open_s=0.2)
    result = run(options, tmp_path, lambda text, done, total: said.append(text))
    assert result["left_out"] == {}
    assert {case["server"] for case in result["cases"]} == {"ours", *PEERS}
    for case in result["cases"]:
        assert case["by_connections"].keys() == {"1", "4"}
        assert all(found["cpu_ms"] > 0 for found in case["by_connections"].values())
    for key in (
        "ours_rps",
        "litserve_rps",
        "bentoml_rps",
        "ratio_serving_graph",
        "ratio_literal",
        "ratio_redis",
    ):
        assert result[key] > 0
    assert result["versions"]["litserve"]["litserve"] == "0.2.19"
    assert result["compared"] > 1_000
    assert said[-1] == "done"
    assert orjson.loads(orjson.dumps(result)) == result
    assert "scores compared with the literal graph's" in lines(result)
    assert _of(tmp_path) == []


def _of(directory: Path) -> list[str]:
    """Processes that work below it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve().is_relative_to(directory):
                found.append((process / "cmdline").read_text())
    return found
