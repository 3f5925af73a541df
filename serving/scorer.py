"""A score request in, scores out: admission -> pin -> assemble -> one fetch -> one run in a worker thread.

What a request brings to be encoded is asked for between fetch and run (serving.brought).

Scorer knows neither HTTP nor gRPC. It never guesses a score: an item without record and ID row is
MISSING and its score NaN, or the default that the request gives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from contracts.errors import DeadlineExceeded
from contracts.features import Assembled, assemble, columns_given
from contracts.request import Limits, Priority, ScoreRequest, check_request
from contracts.scores import COLD, MISSING, OK, Completeness, Scores, Timings
from param_server.behaviours import Behaviours
from param_server.cache import RowCache
from param_server.store import Fetched, Store
from serving.admission import Admission
from serving.batcher import Batcher, Computed, Job
from serving.behaviours import with_stored
from serving.brought import Brought, Resolved, brings
from serving.explain import Explanations
from serving.live import LiveGenerations
from serving.loaded import LoadedGeneration
from serving.metrics import Metrics
from serving.missing import fill_missing, refuse_missing
from serving.request_ids import RequestIds
from serving.scored import Observer, Scored
from serving.settings import ScorerSettings


class Scorer:
    """Stateless but for what is in flight."""

    def __init__(
        self,
        rows: Store | RowCache,
        live: LiveGenerations,
        settings: ScorerSettings,
        metrics: Metrics,
        behaviours: Behaviours | None = None,
        observers: Sequence[Observer] = (),
        lag_s: Callable[[], float] = lambda: 0.0,
        *,
        brought: Brought,
    ) -> None:
        """observers: called with each answered request on the event loop; they neither wait nor raise.
        lag_s: how late the event loop is now. brought: encodes what requests bring."""
        self._ids = RequestIds()
        self._observers = observers
        self._brought = brought
        self._rows = rows
        self._behaviours = behaviours
        self._live = live
        self._default_deadline_s = settings.default_deadline_ms / 1e3
        self.limits = Limits(
            settings.max_candidates, settings.max_behaviours, settings.max_requests, settings.max_contents
        )
        self._metrics = metrics
        self.admission = Admission(
            settings.max_concurrent_rows, settings.workers, settings.max_wait_ms / 1e3, lag_s
        )
        self._explanations = Explanations(self.admission, settings.threads)
        self.batcher = Batcher(settings.workers, settings.shared_rows, settings.shared_window_s, metrics.ran)
        metrics.rows_in_flight.set_function(lambda: self.admission.in_flight)
        metrics.predicted_wait.set_function(lambda: self.admission.wait_s)

    def close(self) -> None:
        """Let running graphs end; nothing new is computed."""
        self._explanations.close()
        self.batcher.close()

    async def score(
        self, request: ScoreRequest, deadline_s: float | None = None, generation: str | None = None
    ) -> Scores:
        """Scores of one request within `deadline_s` seconds (None: the settings' default).

        generation: refuse with Conflict where the scene serves another one.
        Raises InvalidInput, TooLarge, NotFound, Conflict, Overloaded, Unavailable, DeadlineExceeded.
        """
        began = time.perf_counter()
        now_ms = time.time_ns() // 1_000_000
        limit_s = self._default_deadline_s if deadline_s is None else max(0.0, deadline_s)
        check_request(request, self.limits)
        priority = request.priority
        self.admission.check(priority)
        rows = len(request.candidates) + len(request.behaviours)
        self.admission.enter(rows, priority)
        work: Future[Computed] | None = None
        run_s: float | None = None
        task = asyncio.current_task()
        try:
            request_id = request.request_id or self._ids.next()
            loaded = self._live.pin(request.scene, generation, request, request_id)
            if not request.candidates:
                return _empty(request, request_id, loaded, began)
            predicted_s = loaded.run_time.predict(len(request.candidates), self._history(request, loaded))
            self.admission.begin(predicted_s, began + limit_s - time.perf_counter(), priority)
            run_s = predicted_s
            async with asyncio.timeout(limit_s):
                asked_at = time.perf_counter()
                request, stored = await with_stored(self._behaviours, request, loaded.schema.history_length)
                if stored:
                    self.admission.enter(len(request.behaviours), priority)
                    rows += len(request.behaviours)
                read_at = time.perf_counter()
                assembled = assemble([request], loaded.schema, now_ms)
                assembled_at = time.perf_counter()
                fetched = await self._rows.fetch(loaded.space, loaded.id_table, assembled.item_ids)
                if task is not None and task.cancelling():  # swallowed by `wait_for` before Python 3.12
                    raise asyncio.CancelledError
                fetched_at = time.perf_counter()
                resolved: Resolved | None = None
                if brings(request):
                    with self.admission.aside(predicted_s, priority):
                        resolved = await self._brought.resolve(
                            request, loaded, assembled, fetched, began + limit_s, predicted_s
                        )
                    request, assembled, fetched = resolved.request, resolved.assembled, resolved.fetched
                refuse_missing(request, assembled, fetched)
                job = Job(loaded, assembled, fetched, began + limit_s, priority)
                work = self.batcher.submit(job)
                computed = await asyncio.wrap_future(work)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{limit_s * 1e3:.0f} ms were not enough") from error
        finally:
            self._leave(rows, run_s, priority, work)
        scores, statuses, completeness = _mark(loaded, assembled, fetched, computed.scores)
        if resolved is not None:
            statuses, completeness = resolved.mark(statuses, completeness)
        scores, statuses = fill_missing(request, scores, statuses)
        if stored:
            completeness = replace(completeness, behaviours_source="stored")
        if fetched.stale:
            completeness = replace(completeness, stale=True)
        result = Scores(
            request.scene,
            loaded.id,
            scores,
            statuses,
            completeness,
            Timings(
                queue_ms=computed.queue_s * 1e3,
                fetch_ms=(fetched_at - assembled_at + read_at - asked_at) * 1e3,
                assemble_ms=(assembled_at - read_at + asked_at - began + computed.assemble_s) * 1e3,
                run_ms=computed.run_s * 1e3,
                total_ms=(time.perf_counter() - began) * 1e3,
                encode_ms=0.0 if resolved is None else resolved.encode_s * 1e3,
            ),
            request_id,
        )
        self._metrics.scored(result)
        self._live.recorded.add(request, loaded.schema.history_length, now_ms)
        if self._observers or request.explain:
            named = replace(request, request_id=request_id)
            scored = Scored(named, now_ms, loaded, assembled, fetched, result)
            for observe in self._observers:
                observe(scored)
        if request.explain:
            result = replace(result, explanations=await self._explanations.of(scored, began + limit_s))
        return result

    def _history(self, request: ScoreRequest, loaded: LoadedGeneration) -> int:
        """Behaviours that the graph will read; the most there can be where the store is asked first."""
        most = loaded.schema.history_length
        stored = self._behaviours is not None and request.user_id is not None and not request.behaviours
        return most if stored else max(1, min(len(request.behaviours), most))

    def _leave(
        self, rows: int, run_s: float | None, priority: Priority, work: Future[Computed] | None
    ) -> None:
        """A run that its caller no longer waits for holds its rows and its time until it ends."""

        def leave(_: Future[Computed] | None) -> None:
            self.admission.leave(rows)
            if run_s is not None:
                self.admission.end(run_s, priority)

        if work is None:
            leave(None)
        else:
            work.add_done_callback(leave)


def _mark(
    loaded: LoadedGeneration, assembled: Assembled, fetched: Fetched, scores: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], Completeness]:
    """Scores (NaN where missing) and statuses per candidate, and what was found."""
    rows, context = fetched.found, assembled.request_inputs.get("context")
    behaviours = int(np.count_nonzero(assembled.behaviour_mask))
    count = len(scores)
    statuses: npt.NDArray[np.uint8]
    if rows.all():
        statuses, behaviours_found, candidates_found = np.full(count, OK, np.uint8), behaviours, count
    else:
        status_of_row = np.zeros(len(rows) + 1, dtype=np.uint8)
        status_of_row[1:] = np.where(rows, OK, np.where(fetched.id_found, COLD, MISSING))
        statuses = status_of_row[assembled.candidates[0]]
        of_behaviours = status_of_row[assembled.behaviours[0][assembled.behaviour_mask[0]]]
        behaviours_found = int(np.count_nonzero(of_behaviours != MISSING))
        candidates_found = int(np.count_nonzero(statuses != MISSING))
        scores = np.where(statuses == MISSING, np.float32(np.nan), scores)
    return (
        scores,
        statuses,
        Completeness(
            behaviours_asked=behaviours,
            behaviours_found=behaviours_found,
            candidates_asked=count,
            candidates_found=candidates_found,
            columns_asked=len(loaded.schema.request_columns),
            columns_found=0 if context is None else int(columns_given(context, loaded.schema)[0]),
        ),
    )


def _empty(request: ScoreRequest, request_id: str, loaded: LoadedGeneration, began: float) -> Scores:
    """No candidates, no work: graphs refuse an empty axis."""
    return Scores(
        request.scene,
        loaded.id,
        np.zeros(0, dtype=np.float32),
        np.zeros(0, dtype=np.uint8),
        Completeness(0, 0, 0, 0),
        Timings(0.0, 0.0, 0.0, 0.0, (time.perf_counter() - began) * 1e3),
        request_id,
        () if request.explain else None,
    )
