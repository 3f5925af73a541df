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
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
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
_FEW = 64  # jobs that may wait before those that were given up are looked for


@dataclass(frozen=True)
class Computed:
    """scores: (N,) float32; times in seconds, run_s of the whole run; requests: that shared it."""

    scores: npt.NDArray[np.float32]
    queue_s: float
    assemble_s: float
    run_s: float
    requests: int


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
    how long a worker with nothing else to do waits for company, less where a deadline is near. ran: told how
    many requests shared a run, in a worker's thread.
    """

    def __init__(
        self,
        workers: int,
        rows: int = 0,
        window_s: float = 0.0,
        ran: Callable[[int], None] = lambda requests: None,
    ) -> None:
        self._rows, self._window_s, self._ran = rows, window_s, ran
        self._tidy_at = _FEW
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
            if len(self._waiting) >= self._tidy_at:
                self._tidy()
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
            self._run(jobs)

    def _run(self, jobs: Sequence[Job]) -> None:
        """Answer all of them. Where a shared run fails, each is run alone: the fault may be one request's."""
        try:
            answers = _compute(jobs)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
            else:
                for job in jobs:
                    self._run([job])
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.answer.set_result(answer)
        self._ran(len(jobs))

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

    def _tidy(self) -> None:
        """Let go of jobs that nobody waits for: what is always overtaken would never be taken."""
        self._waiting = [entry for entry in self._waiting if not entry[2].answer.cancelled()]
        heapify(self._waiting)
        self._tidy_at = max(_FEW, 2 * len(self._waiting))

    def _join_in(self, jobs: list[Job]) -> None:
        """Move waiting jobs that fit beside `jobs` there, the most urgent first."""
        shared = _Shared(jobs)
        kept: list[tuple[int, int, Job]] = []
        while self._waiting and not shared.full(self._rows):
            entry = heappop(self._waiting)
            job = entry[2]
            if job.loaded is not jobs[0].loaded or not shared.fits(job.shape, self._rows):
                kept.append(entry)
            elif _wanted(job):
                jobs.append(job)
                shared.add(job.shape)
        for entry in kept:
            heappush(self._waiting, entry)

    def _full(self, jobs: Sequence[Job]) -> bool:
        return _Shared(jobs).full(self._rows)

    def _latest_start(self, job: Job) -> float:
        """When it must begin to be there in time: two of its runs before, since company costs time."""
        return job.deadline_at - 2 * job.loaded.run_time.predict(*job.shape)


class _Shared:
    """The shape of a run that requests share: of the longest, N and T; what of it is no padding."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._requests = self._n = self._t = self._real = 0
        for job in jobs:
            self.add(job.shape)

    def add(self, shape: tuple[int, int]) -> None:
        n, t = shape
        self._requests += 1
        self._n, self._t = max(self._n, n), max(self._t, t)
        self._real += n * (1 + t)

    def fits(self, shape: tuple[int, int], rows: int) -> bool:
        """Whether one more may join a run of so many candidates at most."""
        requests = self._requests + 1
        n, t = max(self._n, shape[0]), max(self._t, shape[1])
        real = self._real + shape[0] * (1 + shape[1])
        small = requests <= MOST_REQUESTS and requests * n <= rows
        return small and real >= (1 - _MOST_PADDING) * requests * n * (1 + t)

    def full(self, rows: int) -> bool:
        """Whether none of any shape may."""
        return self._requests >= MOST_REQUESTS or (self._requests + 1) * self._n > rows


def _wanted(job: Job) -> bool:
    """Whether it is to be computed; from here on it cannot be cancelled."""
    if not job.answer.set_running_or_notify_cancel():
        return False
    if time.perf_counter() < job.deadline_at:
        return True
    job.answer.set_exception(DeadlineExceeded("the deadline passed before a worker was free"))
    return False


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
    ended = time.perf_counter()
    size = assembled.candidates.size, assembled.behaviours.shape[1]
    loaded.run_time.observe(*size, ended - started)  # whoever still waits: what was slow is known to be
    return [
        Computed(
            scores[b, : job.shape[0]], started - job.queued_at, ready - started, ended - ready, len(jobs)
        )
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
