"""infinity beside the bare loop: `infinity_bench.py` in an environment and a process of its own.

Texts alone. infinity takes pictures through models in Hugging Face's format only; an image tower here is any
ONNX graph, so that with pictures two models would be compared.
"""

from __future__ import annotations

import json
import os
import select
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import Unavailable
from contracts.towers import Features
from param_server.peer_environment import FAILURES, peer_python, why
from realtime_infer import infinity_bench
from realtime_infer.bare_loop import BATCH, BareLoop

INFINITY = "infinity-emb[torch]==0.0.78"
LEFT_OUT = "left out"
_TURNS = 6
_PATIENCE_S = 120.0  # for one answer
_LEAST_COSINE = 0.999  # between its vector of a text and the text graph's
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TextRates:
    """Texts per second, the median over the turns. infinity: None where `why` says why not."""

    bare: float
    infinity: float | None
    why: str


class Infinity:
    """infinity with a model, warmed by the texts. vectors: (K, d) that it gave for them."""

    def __init__(self, python: Path, model: Path, texts: Sequence[str], log: Path) -> None:
        self._log = log
        # One thread for its graphs, as in the bare loop; its own threads for tokens and answers stay.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
        }
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), infinity_bench.__file__, str(model), str(BATCH)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        try:
            self.vectors: Features = np.array(self._ask(json.dumps(texts)), dtype=np.float32)
        except BaseException:
            self.close()
            raise

    def embed(self) -> float:
        """Seconds of embedding all texts."""
        return float(self._ask("again"))

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise Unavailable("infinity: no pipes")
        try:
            stdin.write(line + "\n")
            stdin.flush()
        except BrokenPipeError:
            answer = ""
        else:
            if not select.select([stdout], [], [], _PATIENCE_S)[0]:
                raise Unavailable(f"infinity: no answer in {_PATIENCE_S:.0f} s")
            answer = stdout.readline()
        if not answer:
            raise Unavailable(f"infinity: {self._log.read_text(errors='replace')[-300:].strip()}")
        try:
            return json.loads(answer)
        except ValueError as error:
            raise Unavailable(f"infinity: said {answer[:100]!r}") from error


def text_rates(
    loop: BareLoop, directory: Path | None, model: Path, log: Path, progress: Progress
) -> TextRates:
    """The bare loop's texts, and in turn with it infinity's with the same `model`.

    directory: infinity's environment, made where absent; None leaves infinity out.
    """
    if directory is None:
        return TextRates(_in_turn(loop, None, progress)[0], None, LEFT_OUT)
    try:
        python = peer_python(directory, [INFINITY, f"torch=={version('torch').split('+')[0]}"])
        infinity = Infinity(python, model, loop.texts, log)
        try:
            _same(infinity.vectors, loop.encode_texts())
            bare, rate = _in_turn(loop, infinity, progress)
        finally:
            infinity.close()
    except (*FAILURES, Unavailable) as error:
        return TextRates(_in_turn(loop, None, progress)[0], None, why(error))
    return TextRates(bare, rate, "")


def _in_turn(loop: BareLoop, infinity: Infinity | None, progress: Progress) -> tuple[float, float | None]:
    """Seconds of all texts each, who begins changes with every turn; the rates of their medians."""
    ours: list[float] = []
    theirs: list[float] = []
    loop.encode_texts()
    for turn in range(_TURNS):
        if infinity is not None and turn % 2:
            theirs.append(infinity.embed())
        began = time.perf_counter()
        loop.encode_texts()
        ours.append(time.perf_counter() - began)
        if infinity is not None and not turn % 2:
            theirs.append(infinity.embed())
        progress(turn + 1, _TURNS)
    count = len(loop.texts)
    return count / statistics.median(ours), count / statistics.median(theirs) if theirs else None


def _same(theirs: Features, ours: Features) -> None:
    """Raises Unavailable unless both are vectors of the same model."""
    if theirs.shape != ours.shape:
        raise Unavailable(f"infinity: vectors of shape {theirs.shape}, the text graph's are {ours.shape}")
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    least = float((np.einsum("kd,kd->k", theirs, ours) / lengths).min())
    if not least >= _LEAST_COSINE:
        raise Unavailable(f"infinity: other vectors than the text graph's, cosine {least:.4f}")
