"""Why a candidate scored as it did: the bundle's literal graph on the best candidates of an answered request.

The graph that serves is rewritten and has no such outputs. The reference graph computes the same score term
by term and says how; it is opened when the first explanation is asked for, and has a thread of its own.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from contracts.errors import BrokenBundle, Conflict, DeadlineExceeded
from contracts.explanation import Explanation, Weighed
from contracts.features import item_inputs
from contracts.onnx_model import OnnxModel
from contracts.scores import COMPUTED
from serving.admission import Admission
from serving.loaded import LoadedGeneration
from serving.scored import Scored

MOST_BEHAVIOURS = 5  # of each kind of number
TOLERANCE = 1e-4  # between the two graphs, on the score
_WEIGHED = ("similarity.", "weights.", "attention.")

Numbers = npt.NDArray[np.float32]


class Explanations:
    """One per process. threads: of one run."""

    def __init__(self, admission: Admission, threads: int) -> None:
        self._admission = admission
        self._threads = threads
        self._graphs: WeakKeyDictionary[LoadedGeneration, OnnxModel] = WeakKeyDictionary()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explain")

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def of(self, scored: Scored, deadline_at: float) -> tuple[Explanation, ...]:
        """The best candidates' that the request asks for, best first. deadline_at: time.perf_counter().

        They count as many rows as candidates times behaviours. Raises Overloaded, DeadlineExceeded, Conflict
        where the generation's bundle explains nothing, BrokenBundle where the two graphs disagree.
        """
        computed = np.isin(scored.scores.statuses, COMPUTED)  # a default score has nothing to explain
        best = [i for i in scored.scores.top(len(computed)) if computed[i]][: scored.request.explain]
        if not best:
            return ()
        rows = len(best) * scored.assembled.behaviours.shape[1]
        self._admission.enter(rows, scored.request.priority)
        work = self._pool.submit(self._explain, scored, best, deadline_at)
        work.add_done_callback(lambda _: self._admission.leave(rows))
        try:
            async with asyncio.timeout(max(0.0, deadline_at - time.perf_counter())):
                return await asyncio.wrap_future(work)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the explanation was there") from error

    def _explain(self, scored: Scored, best: list[int], deadline_at: float) -> tuple[Explanation, ...]:
        if time.perf_counter() >= deadline_at:
            raise DeadlineExceeded("the deadline passed before an explanation could begin")
        rows = scored.fetched
        inputs = item_inputs(rows.records, rows.found, rows.id_rows, rows.id_found, scored.loaded.schema)
        inputs |= scored.assembled.inputs()
        inputs["candidates"] = scored.assembled.candidates[:, best]
        outputs = self._graph(scored.loaded).run(inputs)
        apart = np.abs(outputs["score"][0] - scored.scores.scores[best]).max()
        if not apart <= TOLERANCE:
            raise BrokenBundle(
                f"the graph that explains gives a score that is {apart:.3g} off the served one"
            )
        return tuple(_of(scored, outputs, n, position) for n, position in enumerate(best))

    def _graph(self, loaded: LoadedGeneration) -> OnnxModel:
        graph = self._graphs.get(loaded)
        if graph is None:
            if loaded.reference is None:
                raise Conflict(f"generation {loaded.id}: its ranker bundle has no graph that explains scores")
            graph = OnnxModel(loaded.reference, threads=self._threads)
            if not any(name.startswith("without.") for name in graph.output_names):
                raise Conflict(
                    f"generation {loaded.id}: its reference graph explains nothing: export it again"
                )
            self._graphs[loaded] = graph
        return graph


def _of(scored: Scored, outputs: dict[str, Numbers], n: int, position: int) -> Explanation:
    """Of candidate n of the run."""
    logit = float(outputs["logit"][0, n])
    return Explanation(
        scored.request.candidates[position],
        position,
        float(scored.scores.scores[position]),
        logit,
        {
            name.removeprefix("without."): logit - float(values[0, n])
            for name, values in outputs.items()
            if name.startswith("without.")
        },
        {
            name: _largest(scored, values[0, n])
            for name, values in outputs.items()
            if name.startswith(_WEIGHED)
        },
        {
            name: values[0, n].astype(np.float64).tolist()
            for name, values in outputs.items()
            if name.startswith("distribution.")
        },
    )


def _largest(scored: Scored, values: Numbers) -> list[Weighed]:
    """values: (T,), NaN where there is none -> the behaviours with the largest, by absolute value."""
    length, behaviours = len(values), scored.request.behaviours
    there = scored.assembled.behaviour_mask[0] & ~np.isnan(values)
    order = np.argsort(np.where(there, -np.abs(values), np.inf), kind="stable")
    return [
        Weighed(behaviours[j - length].item_id, length - 1 - j, float(values[j]))
        for j in order[: min(MOST_BEHAVIOURS, int(there.sum()))].tolist()
    ]
