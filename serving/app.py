"""The scorer process, wired on one screen: settings -> store -> live generations -> scorer -> two doors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass

from contracts.errors import InvalidInput, Unavailable
from doors.event_loop import run, settle
from doors.grpc_server import GrpcServer
from doors.health import follow
from doors.http_server import http_server
from doors.logs import configure_logs
from doors.loop_lag import LoopLag
from doors.protection import protection
from doors.settings import DoorSettings
from doors.shutdown import cancel, on_signals
from doors.tracing import Tracing, start_tracing
from param_server.behaviours import Behaviours
from param_server.connection import connect, redis_spans
from param_server.generations import Generations
from param_server.score_files import ScoreFiles
from param_server.server import links
from param_server.settings import StoreSettings
from param_server.store import Store
from serving.brought import Brought
from serving.cache_metrics import CacheCollector
from serving.cached_rows import CachedRows
from serving.capture import SlowRequests
from serving.encode_metrics import EncodeMetrics
from serving.encode_settings import EncodeSettings
from serving.encoder_link import EncoderLink
from serving.encoding import Encoding
from serving.kernels import ranker_kernels
from serving.listing import Listing
from serving.live import LiveGenerations
from serving.metrics import Metrics
from serving.oip import OpenInference
from serving.oip_rpc import InferenceService
from serving.readiness import Readiness
from serving.rest import create_rest
from serving.rpc import ScorerService, scorer_server
from serving.score_door import ScoreDoor
from serving.score_log import ScoreLog
from serving.scored import Observer
from serving.scorer import Scorer
from serving.settings import ScorerSettings
from serving.user_state_metrics import UserStateCollector
from serving.user_states import UserStates

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningScorer:
    """A scorer whose doors are open. http_url: of the HTTP door; grpc_target: host:port."""

    http_url: str
    grpc_target: str
    scorer: Scorer
    live: LiveGenerations
    readiness: Readiness
    rpc: GrpcServer


@contextlib.asynccontextmanager
async def open_scorer(
    settings: ScorerSettings,
    store_settings: StoreSettings,
    door_settings: DoorSettings | None = None,
    tracing: Tracing | None = None,
    encode_settings: EncodeSettings | None = None,
) -> AsyncIterator[RunningScorer]:
    """Open both doors, follow the generations; on leaving, finish what is in flight and close."""
    if store_settings.redis_url is None:
        raise InvalidInput("redis_url", None, "the scorer reads a shared store: set REPCENTER_REDIS_URL")
    guarded = protection(door_settings or DoorSettings(), "score")
    async with contextlib.AsyncExitStack() as closing:  # closes in reverse: doors first, the store last
        if tracing is not None:
            closing.enter_context(redis_spans(tracing.redis))
        redis = connect(store_settings.redis_url, store_settings)
        closing.push_async_callback(redis.aclose)
        store, generations, metrics = Store(redis), Generations(redis), Metrics()
        metrics.links.watch("tables", lambda: links(redis))
        kernels = await ranker_kernels(settings, store_settings.var_dir)
        metrics.runs_with("compiled" if kernels else "portable")
        cached: CachedRows | None = None
        if settings.cache_bytes:
            cached = CachedRows(redis, settings, store_settings)
            closing.push_async_callback(cached.close)
            metrics.registry.register(CacheCollector(cached.cache))
            closing.push_async_callback(cancel, asyncio.create_task(cached.run()))
        states: UserStates | None = None
        if settings.user_state_bytes:
            states = UserStates(settings.user_state_bytes)
            metrics.registry.register(UserStateCollector(states))
        live = LiveGenerations(generations, store, settings, metrics, kernels, cached, states)
        behaviours = Behaviours(redis) if settings.stored_behaviours else None
        observers: list[Observer] = []
        if settings.score_log is not None:
            score_log = ScoreLog(ScoreFiles(settings.score_log), settings, metrics.registry)
            closing.push_async_callback(asyncio.to_thread, score_log.close)
            observers.append(score_log.observe)
        if settings.capture_slow_ms is not None:
            directory = store_settings.var_dir / "slow"
            slow = SlowRequests(directory, settings, metrics.registry, kernels=kernels is not None)
            closing.push_async_callback(asyncio.to_thread, slow.close)
            observers.append(slow.observe)
        lag = LoopLag()
        closing.push_async_callback(cancel, asyncio.create_task(lag.run()))
        metrics.loop_lag.set_function(lag.seconds)
        encode = encode_settings or EncodeSettings()
        encoding: Encoding | None = None
        if encode.encoder_target is not None:
            link = EncoderLink(encode, tracing)
            closing.push_async_callback(link.close)
            encoding = Encoding(link, encode, EncodeMetrics(metrics.registry, lambda: link.given_up))
            closing.push_async_callback(encoding.close)
        brought = Brought(encoding, store.deleted)
        rows = cached.cache if cached else store
        scorer = Scorer(rows, live, settings, metrics, behaviours, observers, lag.seconds, brought=brought)
        closing.callback(scorer.close)
        listing, readiness = Listing(generations, live), Readiness(live, metrics)

        inference = OpenInference(scorer, live)
        services = ScorerService(scorer, listing, metrics), InferenceService(inference, readiness, metrics)
        rpc = scorer_server(
            *services,
            settings.host,
            settings.grpc_port,
            settings.max_body_bytes,
            settings.max_calls,
            guarded,
            tracing,
        )
        closing.push_async_callback(rpc.stop, settings.stop_s)
        door = ScoreDoor(scorer, metrics, settings.max_body_bytes, settings.max_calls)
        rest = create_rest(scorer, listing, readiness, metrics, settings.max_body_bytes, inference, door)
        url = await closing.enter_async_context(
            http_server(
                door.before(rest), settings.host, settings.http_port, settings.stop_s, guarded, tracing
            )
        )
        await rpc.start()
        for background in (live.run(), follow(readiness.check, rpc.tell, settings.poll_s)):
            closing.push_async_callback(cancel, asyncio.create_task(background))
        yield RunningScorer(url, rpc.target, scorer, live, readiness, rpc)


async def serve(
    settings: ScorerSettings, store_settings: StoreSettings, tracing: Tracing | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then: not ready, drain, finish what is in flight."""
    stop = asyncio.Event()
    on_signals(stop)
    async with open_scorer(settings, store_settings, tracing=tracing) as running:
        settle()
        on_signals(stop)  # uvicorn put its own handlers there, which would not drain
        where = f"http={running.http_url} grpc={running.grpc_target}"
        print(f"listening {where}", flush=True)
        said = asyncio.create_task(_say_ready(running, where, settings.poll_s))
        await stop.wait()
        await cancel(said)
        running.readiness.draining = True
        await running.rpc.tell(False)
        log.info("draining for %g s", settings.drain_s)
        await asyncio.sleep(settings.drain_s)
    print("stopped", flush=True)


def run_scorer(settings: ScorerSettings, store_settings: StoreSettings) -> None:
    """The process: `ready http=… grpc=…` is printed when every scene is loaded and the store answers."""
    configure_logs("scorer")
    tracing = start_tracing("scorer")
    try:
        run(serve(settings, store_settings, tracing))
    finally:
        if tracing is not None:
            tracing.stop()


async def _say_ready(running: RunningScorer, where: str, poll_s: float) -> None:
    while True:
        try:
            await running.readiness.check()
        except Unavailable as error:
            log.info("not ready: %s", error)
            await asyncio.sleep(min(poll_s, 0.1))
        else:
            print(f"ready {where}", flush=True)
            return
