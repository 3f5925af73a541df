"""The queue before the graphs: the most urgent request first, several to one run where that pays.

    submit() ──> waiting, by priority and order ──> a worker thread: one request, or those that fit beside it
                                                    ──> one run ──> each request's own scores

A run that is shared has the rows of all its requests, candidates and behaviours padded to the longest. Only
requests of one generation share, 16 at most, and only where at most a fifth of what is computed is padding.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush

import numpy as np
import numpy.typing as npt

from contracts.errors import DeadlineExceeded
from contracts.features import Assembled, item_inputs, join
from contracts.request import Priority
from param_server.store import Fetched
from serving.admission import RANK
from serving.bucketed import MOST_REQUESTS
from serving.loaded import LoadedGeneration

_MOST_PADDING = 0.2


@dataclass(frozen=True)
class Computed:
    """scores: (N,) float32; times in seconds, run_s of the whole run; requests: that shared it; size: its
    candidates, all requests', and its behaviours, as padded; first: true for one of those requests."""

    scores: npt.NDArray[np.float32]
    queue_s: float
    assemble_s: float
    run_s: float
    requests: int
    size: tuple[int, int]
    first: bool


@dataclass(frozen=True, eq=False)
class Job:
    """One request whose rows are there. deadline_at: time.perf_counter() after which nobody waits."""

    loaded: LoadedGeneration
    assembled: Assembled
    fetched: Fetched
    deadline_at: float
    priority: Priority = "normal"
    queued_at: float = field(default_factory=time.perf_counter)
    answer: Future[Computed] = field(default_factory=Future)

    @property
    def shape(self) -> tuple[int, int]:
        """N, T."""
        return self.assembled.candidates.shape[1], self.assembled.behaviours.shape[1]


class Batcher:
    """`workers` threads that run graphs.

    rows: candidates of one run, padding included, up to which requests share it; 0 = none shares. window_s:
    how long a worker with nothing else to do waits for company, less where a deadline is near.
    """

    def __init__(self, workers: int, rows: int = 0, window_s: float = 0.0) -> None:
        self._rows, self._window_s = rows, window_s
        self._waiting: list[tuple[int, int, Job]] = []
        self._order = itertools.count()
        lock = threading.Lock()
        self._came, self._company = threading.Condition(lock), threading.Condition(lock)
        self._gathering = self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"score-{n}", daemon=True) for n in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> Future[Computed]:
        """Its scores. Cancelled before a worker took it, it is not computed. RuntimeError once closed."""
        with self._came:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            heappush(self._waiting, (-RANK[job.priority], next(self._order), job))
            (self._company if self._gathering else self._came).notify()
        return job.answer

    def close(self) -> None:
        """Let running graphs end; nothing new is computed."""
        with self._came:
            self._closed = True
            left, self._waiting = self._waiting, []
            self._came.notify_all()
            self._company.notify_all()
        for _, _, job in left:
            job.answer.cancel()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while jobs := self._next():
            _run(jobs)

    def _next(self) -> list[Job]:
        """The jobs of the next run, taken by a worker that is free; none once closed."""
        with self._came:
            while (first := self._take()) is None:
                if self._closed:
                    return []
                self._came.wait()
            jobs = [first]
            if self._rows:
                self._join_in(jobs)
                self._gather(jobs)
            return jobs

    def _gather(self, jobs: list[Job]) -> None:
        """Wait for company, one worker at a time, and not while somebody waits who does not fit."""
        if self._gathering:
            return
        self._gathering = True
        while not (self._closed or self._waiting or self._full(jobs)):
            latest = min(self._latest_start(job) for job in jobs)
            left = min(jobs[0].queued_at + self._window_s, latest) - time.perf_counter()
            if left <= 0:
                break
            self._company.wait(left)
            self._join_in(jobs)
        self._gathering = False
        if self._waiting:
            self._came.notify()

    def _take(self) -> Job | None:
        """The most urgent one that somebody still waits for."""
        while self._waiting:
            job = heappop(self._waiting)[2]
            if _wanted(job):
                return job
        return None

    def _join_in(self, jobs: list[Job]) -> None:
        """Move waiting jobs that fit beside `jobs` there, the most urgent first."""
        kept: list[tuple[int, int, Job]] = []
        waiting, self._waiting = self._waiting, []
        while waiting:
            entry = heappop(waiting)
            job = entry[2]
            if not self._fits(jobs, job):
                kept.append(entry)
            elif _wanted(job):
                jobs.append(job)
        heapify(kept)
        self._waiting = kept

    def _fits(self, jobs: Sequence[Job], job: Job) -> bool:
        if job.loaded is not jobs[0].loaded:
            return False
        shapes = [one.shape for one in (*jobs, job)]
        n, t = (max(column) for column in zip(*shapes, strict=True))
        if len(shapes) > MOST_REQUESTS or len(shapes) * n > self._rows:
            return False
        real = sum(candidates * (1 + behaviours) for candidates, behaviours in shapes)
        return bool(real >= (1 - _MOST_PADDING) * len(shapes) * n * (1 + t))

    def _full(self, jobs: Sequence[Job]) -> bool:
        more = len(jobs) + 1
        return more > MOST_REQUESTS or more * max(job.shape[0] for job in jobs) > self._rows

    def _latest_start(self, job: Job) -> float:
        """When it must begin to be there in time: two of its runs before, since company costs time."""
        return job.deadline_at - 2 * job.loaded.run_time.predict(*job.shape)


def _wanted(job: Job) -> bool:
    """Whether it is to be computed; from here on it cannot be cancelled."""
    if not job.answer.set_running_or_notify_cancel():
        return False
    if time.perf_counter() < job.deadline_at:
        return True
    job.answer.set_exception(DeadlineExceeded("the deadline passed before a worker was free"))
    return False


def _run(jobs: Sequence[Job]) -> None:
    """Answer all of them. Where a shared run fails, each is run alone: the fault may be one request's."""
    try:
        answers = _compute(jobs)
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].answer.set_exception(error)
        else:
            for job in jobs:
                _run([job])
        return
    for job, answer in zip(jobs, answers, strict=True):
        job.answer.set_result(answer)


def _compute(jobs: Sequence[Job]) -> list[Computed]:
    started = time.perf_counter()
    loaded = jobs[0].loaded
    if len(jobs) == 1:
        assembled, fetched = jobs[0].assembled, jobs[0].fetched
    else:
        assembled = join([job.assembled for job in jobs])
        fetched = _join_rows([job.fetched for job in jobs])
    inputs = item_inputs(fetched.records, fetched.found, fetched.id_rows, fetched.id_found, loaded.schema)
    ready = time.perf_counter()
    scores = loaded.run(assembled, inputs)
    whole = Computed(
        scores[0],
        0.0,
        ready - started,
        time.perf_counter() - ready,
        len(jobs),
        (assembled.candidates.size, assembled.behaviours.shape[1]),
        False,
    )
    return [
        replace(whole, scores=scores[b, : job.shape[0]], queue_s=started - job.queued_at, first=not b)
        for b, job in enumerate(jobs)
    ]


def _join_rows(parts: Sequence[Fetched]) -> Fetched:
    """Rows one part after the other."""
    return Fetched(
        np.concatenate([part.records for part in parts]),
        np.concatenate([part.found for part in parts]),
        np.concatenate([part.id_rows for part in parts]),
        np.concatenate([part.id_found for part in parts]),
    )
