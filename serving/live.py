"""Which generation each scene serves now: follow the pointers, load beside, try, swap, let the old one go.

A generation that does not load, or whose scores drift too far on recorded requests, is refused and
logged; what served before keeps serving, and the refused one is tried again with growing pauses (its
bundle may only be late).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from contracts.errors import Conflict, InvalidInput, NotFound, RepcenterError, Unavailable, UnknownVersion
from contracts.request import ScoreRequest
from param_server.generations import Generations
from param_server.scene_pointer import Canary, ScenePointer
from param_server.store import Store
from serving.cached_rows import CachedRows
from serving.drift import DriftLimits, measure_drift
from serving.loaded import LoadedGeneration, load_generation
from serving.metrics import Metrics
from serving.recorded import RecordedRequests
from serving.settings import ScorerSettings
from serving.user_states import UserStates

log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
Role = Literal["active", "canary"]


@dataclass(frozen=True)
class Trial:
    """A generation that some users get beside the one that serves."""

    loaded: LoadedGeneration
    canary: Canary


@dataclass(frozen=True)
class Serving:
    """What a scene serves: one generation, of the pointer's revision; previous: what served before."""

    loaded: LoadedGeneration
    revision: int
    previous: tuple[str, ...] = ()
    trial: Trial | None = None

    def knows(self, loaded: LoadedGeneration) -> bool:
        """Whether it served here before, or is being tried."""
        return loaded.id in self.previous or (self.trial is not None and self.trial.loaded is loaded)


@dataclass(frozen=True)
class _Refusal:
    generation_id: str
    reason: str
    tries: int
    again_at: float  # time.monotonic()


class LiveGenerations:
    """Loads and swaps; a request pins what it reads here once and keeps it to its end."""

    def __init__(
        self,
        generations: Generations,
        store: Store,
        settings: ScorerSettings,
        metrics: Metrics,
        kernels: Path | None = None,
        cached: CachedRows | None = None,
        states: UserStates | None = None,
    ) -> None:
        """kernels: the library of contracts.kernels that every generation's graph runs with; cached: where
        requests have their rows from, None = the store; states: where users' states are kept, or None."""
        self._generations = generations
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._kernels = kernels
        self._cached = cached
        self._states = states
        self.recorded = RecordedRequests(settings.scenes, settings.drift_requests)
        self._serving: dict[str, Serving] = {}
        self._refused: dict[tuple[str, Role], _Refusal] = {}
        self._refreshing = asyncio.Lock()

    def serving(self) -> dict[str, Serving]:
        """Scene -> what it serves, for the scenes that are loaded."""
        return dict(self._serving)

    def pin(
        self,
        scene: str,
        generation_id: str | None = None,
        request: ScoreRequest | None = None,
        request_id: str = "",
    ) -> LoadedGeneration:
        """The scene's live generation, or its canary where that is the one asked for, or the request's user
        gets it. NotFound, Unavailable, Conflict (a generation was asked for that is neither)."""
        serving = self._serving.get(scene)
        if serving is None:
            if scene not in self._settings.scenes:
                raise NotFound("scene", scene)
            refused = self._refused.get((scene, "active"))
            why = f": {refused.reason}" if refused else ""
            raise Unavailable(f"scene {scene!r} has no loaded generation{why}")
        trial = serving.trial
        if generation_id is not None:
            for loaded in [serving.loaded, *([] if trial is None else [trial.loaded])]:
                if loaded.id == generation_id:
                    return loaded
            raise Conflict(f"scene {scene!r} serves generation {serving.loaded.id}, not {generation_id!r}")
        if trial is not None and request is not None and trial.canary.takes(_whose(request, request_id)):
            return trial.loaded
        return serving.loaded

    async def check(self) -> None:
        """Nothing where every scene is loaded and the store answers; Unavailable otherwise."""
        await self._generations.pointer(self._settings.scenes[0])
        for scene in self._settings.scenes:
            self.pin(scene)

    async def run(self) -> None:
        """Follow the pointers until cancelled. A store that is away changes nothing that serves."""
        while True:
            try:
                await self.refresh()
            except RepcenterError as error:
                log.warning("generations could not be read: %s", error)
            except Exception:  # a loop that ends in silence would never swap again
                log.exception("generations could not be read")
            await asyncio.sleep(self._settings.poll_s)

    async def refresh(self) -> None:
        """One look at the pointers; loads and swaps what moved. Raises where the store does not answer."""
        async with self._refreshing:
            for scene in self._settings.scenes:
                try:
                    pointer = await self._generations.pointer(scene)
                except (InvalidInput, UnknownVersion) as error:  # this scene's alone
                    log.error("scene %s: its pointer cannot be read: %s", scene, error)
                    continue
                if pointer is not None:
                    await self._follow(scene, pointer)
            if self._cached is not None:
                self._cached.keep(self._held())
            if self._states is not None:
                self._states.keep({loaded.id for loaded in self._held()})

    async def _follow(self, scene: str, pointer: ScenePointer) -> None:
        now = self._serving.get(scene)
        if now is not None and now.loaded.id == pointer.generation_id:
            self._refused.pop((scene, "active"), None)
            now = replace(now, revision=pointer.revision, previous=pointer.previous)
        elif (loaded := await self._load(scene, "active", pointer.generation_id, now)) is not None:
            self._metrics.swapped(scene, now.loaded.id if now else None, loaded.id)
            log.info("scene %s serves generation %s (revision %d)", scene, loaded.id, pointer.revision)
            now = Serving(loaded, pointer.revision, pointer.previous, now.trial if now else None)
        if now is None:
            return
        self._serving[scene] = now
        trial = await self._trial(scene, pointer.canary, now)
        self._serving[scene] = replace(now, trial=trial)
        self._metrics.serves(
            scene, now.loaded.id, *([(trial.loaded.id, trial.canary.share)] if trial else [])
        )

    async def _trial(self, scene: str, canary: Canary | None, now: Serving) -> Trial | None:
        """What a share of users gets. A canary that does not load leaves them what the others get."""
        if canary is None:
            self._refused.pop((scene, "canary"), None)
            if now.trial is not None:
                log.info("scene %s: generation %s is a canary no more", scene, now.trial.loaded.id)
            return None
        if now.trial is not None and now.trial.loaded.id == canary.generation_id:
            return Trial(now.trial.loaded, canary)
        loaded = await self._load(scene, "canary", canary.generation_id, now)
        if loaded is None:
            return None
        log.info("scene %s: %g of users get generation %s", scene, canary.share, loaded.id)
        return Trial(loaded, canary)

    async def _load(
        self, scene: str, role: Role, generation_id: str, now: Serving | None
    ) -> LoadedGeneration | None:
        """Loaded, warm and tried; None where it is refused, now or a short while ago."""
        refused = self._refused.get((scene, role))
        if refused is not None and refused.generation_id != generation_id:
            refused = None
        if refused is not None and time.monotonic() < refused.again_at:
            return None
        try:
            loaded = self._shared(generation_id) or await load_generation(
                generation_id, self._generations, self._store, self._settings, self._kernels, self._states
            )
            if self._cached is not None:
                await self._cached.prepare(loaded)
            if now is not None and not now.knows(loaded):  # the way back is never barred
                await self._try(scene, now.loaded, loaded)
        except Exception as error:  # whatever is wrong with a new generation must not stop the old one
            self._refuse(scene, role, generation_id, error, refused)
            return None
        self._refused.pop((scene, role), None)
        self._metrics.graphs_run(loaded.how)
        log.info("generation %s: device %s, shape buckets %s, CUDA graphs %s", loaded.id, *loaded.how)
        return loaded

    async def _try(self, scene: str, serving: LoadedGeneration, candidate: LoadedGeneration) -> None:
        """Recorded requests through both; GateFailed where the scores drift beyond the limits."""
        recorded = self.recorded.of(scene)
        if not recorded:
            return
        rows = self._store if self._cached is None else self._cached.cache
        drift = await measure_drift(rows, serving, candidate, recorded)
        self._metrics.drifted(scene, drift)
        log.info(
            "scene %s: generation %s beside %s on %d recorded requests: logits differ by %.4f, "
            "rank correlation %.4f, lost candidates %.4f",
            *(scene, candidate.id, serving.id, drift.requests, drift.logit, drift.rank, drift.lost),
        )
        limits = self._settings
        drift.refuse(DriftLimits(limits.drift_max_logit, limits.drift_min_rank, limits.drift_max_lost))

    def _shared(self, generation_id: str) -> LoadedGeneration | None:
        """A generation that a scene serves already, or tries, is loaded once."""
        return next((loaded for loaded in self._held() if loaded.id == generation_id), None)

    def _held(self) -> list[LoadedGeneration]:
        serving = self._serving.values()
        return [s.loaded for s in serving] + [s.trial.loaded for s in serving if s.trial is not None]

    def _refuse(
        self, scene: str, role: Role, generation_id: str, error: Exception, refused: _Refusal | None
    ) -> None:
        tries = refused.tries + 1 if refused else 1
        pause = min(_LONGEST_PAUSE_S, self._settings.poll_s * 2.0 ** min(tries, 16))
        self._refused[scene, role] = _Refusal(generation_id, str(error), tries, time.monotonic() + pause)
        self._metrics.refused(scene)
        serving = self._serving.get(scene)
        log.error(
            "scene %s: generation %s refused as %s, %s keeps serving: %s: %s",
            scene,
            generation_id,
            role,
            serving.loaded.id if serving else "nothing",
            type(error).__name__,
            error,
            exc_info=None if isinstance(error, RepcenterError) else error,
        )


def _whose(request: ScoreRequest, request_id: str) -> bytes:
    """What decides about the canary: the user; of a request that names none, the id that it has or got."""
    if request.user_id is not None:
        return b"u" + request.user_id.encode()
    return b"r" + (request.request_id or request_id).encode()
