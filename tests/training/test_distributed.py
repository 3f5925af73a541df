"""Two real gloo processes on the loopback interface against one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.training import ranked
from training.distributed import ALONE, joined_ranks

ROOT = Path(__file__).parents[2]
# ranks pad to other lengths and add in another order than one process does: rounding, not another update
TOLERANCE = 2e-6


def start(out: Path, model: str, *fault: int, second: str | None = None) -> list[subprocess.Popen[str]]:
    """The processes that torchrun would start, without its agent, which kills the others of a dead one."""
    out.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.training.ranked", str(out)]
    return [
        subprocess.Popen(
            [*command, name, *map(str, fault)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, name in enumerate((model, second or model))
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """(exit status, standard error) of each rank."""
    try:
        said = [process.communicate(timeout=90)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def log_of(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        log: dict[str, object] = json.loads(file.metadata()["log"])
    return log


@pytest.mark.parametrize("model", ["din_pos", "dmae"])
def test_two_ranks_make_the_updates_of_one(tmp_path: Path, model: str) -> None:
    """All weights, IDDU's among them, and all ID rows, with ID dropout, masking and batches of odd sizes."""
    assert [code for code, _ in finish(start(tmp_path, model))] == [0, 0]
    first, second = (load_file(tmp_path / f"{rank}-of-2.safetensors") for rank in (0, 1))
    assert {n: t.numpy().tobytes() for n, t in first.items()} == {
        n: t.numpy().tobytes() for n, t in second.items()
    }
    torch.set_num_threads(1)
    alone = ranked.train(model, ranked.CONFIG, ALONE)
    wanted = ranked.tensors(alone)
    assert set(first) == set(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_allclose(
            first[name].numpy(), tensor.numpy(), rtol=1e-4, atol=TOLERANCE, err_msg=name
        )
    log = log_of(tmp_path / "0-of-2.safetensors")
    assert log["steps"] == alone.log["steps"] > 10
    np.testing.assert_allclose(np.array(log["loss"]), alone.log["loss"], rtol=1e-5)


def test_a_run_that_lost_a_rank_says_so_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert [code for code, _ in finish(start(whole, "dmae"))] == [0, 0]
    broken = tmp_path / "broken"
    (code, said), (dead, _) = finish(start(broken, "dmae", 9, 1))
    assert (code, dead) == (1, 9)
    assert "RankLost: rank 0: another rank of the run is gone" in said
    assert not list(broken.glob("*-of-2.safetensors"))
    assert [code for code, _ in finish(start(broken, "dmae"))] == [0, 0]
    for rank in (0, 1):
        mine, theirs = (load_file(d / f"{rank}-of-2.safetensors") for d in (whole, broken))
        assert {n: t.numpy().tobytes() for n, t in mine.items()} == {
            n: t.numpy().tobytes() for n, t in theirs.items()
        }


def test_ranks_that_start_differently_are_refused(tmp_path: Path) -> None:
    """Rank 1 is given another model: without the check ranks would hang or add up what does not match."""
    for rank, (code, said) in enumerate(finish(start(tmp_path, "din", second="din_pos"))):
        assert code == 1
        assert f"Conflict: rank {rank} starts from other data" in said


def test_outside_torchrun_there_is_one_rank() -> None:
    with joined_ranks() as ranks:
        assert ranks is ALONE
        assert ranks.first
