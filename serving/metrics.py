"""The scorer's Prometheus metrics, in a registry of their own. Labels are bounded: never an id of an item."""

from __future__ import annotations

from typing import Literal

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from contracts.scores import STATUS_NAMES, Scores
from doors.link_metrics import LinkMetrics
from serving.bucketed import HowGraphsRun
from serving.drift import Drift
from serving.generation_metrics import GenerationMetrics, OneGeneration

Door = Literal["http", "grpc", "oip_http", "oip_grpc"]
_AT_ONCE = 64
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """One per process; the doors, the scorer and the live generations write into it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.links = LinkMetrics(self.registry)
        self._duration = Histogram(
            "repcenter_score_request_duration_seconds",
            "Score requests by door and outcome (ok, or the error's code).",
            ["door", "outcome"],
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        stage = Histogram(
            "repcenter_stage_duration_seconds",
            "Time of a score request by stage: queue, fetch, assemble, run; encode where it was asked for.",
            ["stage"],
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self._stages = [stage.labels(name) for name in ("queue", "fetch", "assemble", "run")]
        self._encode = stage.labels("encode")
        lookup = Counter(
            "repcenter_lookup_total",
            "Candidates looked up, by result: ok, cold, missing, default, encoded.",
            ["result"],
            registry=self.registry,
        )
        self._lookups = [lookup.labels(name) for name in STATUS_NAMES[1:]]
        self._generation = Gauge(
            "repcenter_generation_info",
            "1 for the generation that each scene serves.",
            ["scene", "generation"],
            registry=self.registry,
        )
        self._kernels = Gauge(
            "repcenter_kernels_info",
            "1 for what graphs run with: compiled kernels, or portable (ONNX Runtime's own operators).",
            ["kernels"],
            registry=self.registry,
        )
        self._graphs = Gauge(
            "repcenter_graph_runs_info",
            "1 for how the graph loaded last runs: device, whether in shape buckets, whether as CUDA graphs "
            "(captured, or off).",
            ["device", "shape_buckets", "cuda_graphs"],
            registry=self.registry,
        )
        self._swaps = Counter(
            "repcenter_generation_swaps_total",
            "Generations put live, by scene.",
            ["scene"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "repcenter_generation_refusals_total",
            "Activated generations that did not load or drifted, by scene; the one before keeps serving.",
            ["scene"],
            registry=self.registry,
        )
        self._drift = Gauge(
            "repcenter_generation_drift",
            "Of the newest generation that was tried on recorded requests: mean difference of logits, "
            "rank correlation, share of candidates lost.",
            ["scene", "measure"],
            registry=self.registry,
        )
        self._canary = Gauge(
            "repcenter_canary_share",
            "Share of users that get a generation beside the one that the scene serves.",
            ["scene", "generation"],
            registry=self.registry,
        )
        self._canary_shares: dict[str, dict[str, float]] = {}
        self._of_generations = GenerationMetrics(self.registry, _BUCKETS_S)
        self._by_generation: dict[tuple[str, str], OneGeneration] = {}
        self._requests: list[tuple[Door, str, float]] = []
        self._answers: list[Scores] = []
        self._run_requests = Histogram(
            "repcenter_run_requests",
            "Requests that shared a graph run.",
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self.loop_lag = Gauge(
            "repcenter_event_loop_lag_seconds", "How late the event loop is.", registry=self.registry
        )
        self.rows_in_flight = Gauge(
            "repcenter_rows_in_flight", "Admitted rows not yet answered.", registry=self.registry
        )
        self.predicted_wait = Gauge(
            "repcenter_predicted_wait_seconds",
            "What a request of normal priority that came now would wait for a worker.",
            registry=self.registry,
        )
        self.ready = Gauge(
            "repcenter_ready", "1 while every scene is loaded and the store answers.", registry=self.registry
        )

    def request(self, door: Door, outcome: str, seconds: float) -> None:
        """One answered request; outcome: "ok", "cancelled" or an error's code."""
        self._requests.append((door, outcome, seconds))
        if len(self._requests) >= _AT_ONCE:
            self.settle()

    def scored(self, scores: Scores) -> None:
        """Stages and lookups of one computed answer."""
        self._answers.append(scores)
        if len(self._answers) >= _AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Count what was kept: many requests at once cost a third of what each of them costs by itself."""
        requests, self._requests = self._requests, []
        for door, outcome, seconds in requests:
            self._duration.labels(door, outcome).observe(seconds)
        answers, self._answers = self._answers, []
        if not answers:
            return
        for scores in answers:
            t = scores.timings
            for stage, ms in zip(
                self._stages, (t.queue_ms, t.fetch_ms, t.assemble_ms, t.run_ms), strict=True
            ):
                stage.observe(ms / 1e3)
            if t.encode_ms:
                self._encode.observe(t.encode_ms / 1e3)
        statuses = np.concatenate([scores.statuses for scores in answers])
        counts = np.bincount(statuses, minlength=len(STATUS_NAMES))[1:].tolist()
        for counter, count in zip(self._lookups, counts, strict=True):
            counter.inc(count)
        for key, of_generation in self._by_generation.items():
            own = [scores for scores in answers if (scores.scene, scores.generation) == key]
            if own:
                of_generation.scored(own)

    def ran(self, requests: int) -> None:
        """One graph run, of so many requests."""
        self._run_requests.observe(requests)

    def runs_with(self, kernels: Literal["compiled", "portable"]) -> None:
        """Said once, at start."""
        self._kernels.labels(kernels).set(1)

    def graphs_run(self, how: HowGraphsRun) -> None:
        self._graphs.clear()
        self._graphs.labels(*how).set(1)

    def swapped(self, scene: str, old: str | None, new: str) -> None:
        if old is not None:
            self._generation.remove(scene, old)
        self._generation.labels(scene, new).set(1)
        self._swaps.labels(scene).inc()

    def drifted(self, scene: str, drift: Drift) -> None:
        for measure, value in (("logit", drift.logit), ("rank", drift.rank), ("lost", drift.lost)):
            self._drift.labels(scene, measure).set(value)

    def serves(self, scene: str, active: str, *canaries: tuple[str, float]) -> None:
        """What a scene serves now; counts of other generations end. canaries: (id, share of users)."""
        self.settle()  # the last of a generation's counts are its own
        shares = dict(canaries)
        for key in [k for k in self._by_generation if k[0] == scene and k[1] not in {active, *shares}]:
            self._by_generation.pop(key).remove()
        for generation in (active, *shares):
            if (scene, generation) not in self._by_generation:
                self._by_generation[scene, generation] = self._of_generations.of(scene, generation)
        self._canary.clear()
        self._canary_shares[scene] = shares
        for name, told in self._canary_shares.items():
            for generation, share in told.items():
                self._canary.labels(name, generation).set(share)

    def refused(self, scene: str) -> None:
        self._refusals.labels(scene).inc()

    def expose(self) -> bytes:
        """The Prometheus text format."""
        self.settle()
        return generate_latest(self.registry)
