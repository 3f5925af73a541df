"""The write door, the encoder, the worker and the sink, wired on one screen; each a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass

from fastapi import FastAPI

from contracts.errors import RepcenterError
from doors.health import add_health, follow
from doors.http_server import http_server
from doors.link_metrics import LinkMetrics
from doors.logs import configure_logs
from doors.problems import install_problems
from doors.protection import protection
from doors.settings import DoorSettings
from doors.shutdown import cancel, on_signals
from param_server.behaviours import Behaviours
from param_server.generations import Generations
from param_server.rollover import Rollovers
from param_server.server import Server
from param_server.server import links as links_of
from param_server.settings import StoreSettings
from param_server.store import Store
from param_server.windows import Windows
from realtime_infer.bulk import Bulks
from realtime_infer.canary import Canary
from realtime_infer.clients import clients
from realtime_infer.encode_metrics import EncodeMetrics
from realtime_infer.encode_queue import EncodeQueue
from realtime_infer.encode_rest import create_encode_app
from realtime_infer.encode_rpc import EncoderService, encoder_server
from realtime_infer.encoder import Encoder
from realtime_infer.encoder_source import EncoderSource
from realtime_infer.event_metrics import EventMetrics
from realtime_infer.event_rpc import EventsService
from realtime_infer.events import Events
from realtime_infer.ingest import Ingest
from realtime_infer.load_pictures import open_pictures
from realtime_infer.metrics import DoorMetrics, WorkerMetrics
from realtime_infer.patience import Patience
from realtime_infer.push_queue import PushQueue
from realtime_infer.rest import create_app
from realtime_infer.roster import Roster
from realtime_infer.rpc import ItemsService, items_server
from realtime_infer.sequences import Sequences
from realtime_infer.settings import EncoderSettings
from realtime_infer.sink import Sink
from realtime_infer.sink_metrics import SinkMetrics
from realtime_infer.sink_settings import SinkSettings
from realtime_infer.stages import Stages
from realtime_infer.statuses import Statuses
from realtime_infer.worker import Worker

DOOR_HTTP_PORT, ENCODER_HTTP_PORT, WORKER_HTTP_PORT, SINK_HTTP_PORT = 8081, 8082, 9090, 9091
_READY_S = 1.0


@dataclass(frozen=True)
class RunningDoor:
    """An open write door. grpc_target: host:port."""

    http_url: str
    grpc_target: str


@dataclass(frozen=True)
class RunningEncoder:
    """An open encoder. task: ends with an error where the encoder no longer matches its golden outputs."""

    http_url: str
    grpc_target: str
    task: asyncio.Task[None]


@dataclass(frozen=True)
class RunningWorker:
    """A worker and where its health and metrics are. task: ends with the worker's error, if it has one."""

    http_url: str
    worker: Worker
    task: asyncio.Task[None]


@dataclass(frozen=True)
class RunningSink:
    """A sink and where its health and metrics are."""

    http_url: str
    sink: Sink
    metrics: SinkMetrics


@contextlib.asynccontextmanager
async def open_door(
    settings: EncoderSettings, store_settings: StoreSettings, door_settings: DoorSettings | None = None
) -> AsyncIterator[RunningDoor]:
    """Open both doors; on leaving, finish what is in flight. Unavailable where a push could be lost."""
    guarded = protection(door_settings or DoorSettings(), "push")
    async with clients(store_settings) as (table, stream), contextlib.AsyncExitStack() as closing:
        metrics = DoorMetrics()
        ingest = Ingest(stream, settings, metrics.group)
        bulks = Bulks(ingest, metrics, settings)
        _watch(metrics.links, table, stream)
        store = Store(table)
        statuses = Statuses(ingest, store, Generations(table), settings)
        await store.check_server()
        await ingest.check()
        await Sequences(ingest, stream, store).catch_up()
        service = ItemsService(ingest, bulks, statuses, metrics)
        events = Events(Behaviours(table, settings.max_behaviours), settings)
        event_metrics = EventMetrics(metrics.registry)
        rpc = items_server(service, EventsService(events, event_metrics), settings, guarded)
        closing.push_async_callback(rpc.stop, settings.stop_s)
        await rpc.start()
        app = create_app(
            ingest, statuses, bulks, metrics, settings.max_body_bytes, events=(events, event_metrics)
        )
        port = DOOR_HTTP_PORT if settings.http_port is None else settings.http_port
        url = await closing.enter_async_context(
            http_server(app, settings.host, port, settings.stop_s, guarded)
        )
        closing.push_async_callback(cancel, asyncio.create_task(follow(ingest.check, rpc.tell, _READY_S)))
        yield RunningDoor(url, rpc.target)


@contextlib.asynccontextmanager
async def open_worker(
    settings: EncoderSettings, store_settings: StoreSettings
) -> AsyncIterator[RunningWorker]:
    """Start a worker; on leaving, it finishes the batch in hand."""
    guarded = protection(DoorSettings(), "admin")
    async with clients(store_settings) as (table, stream), contextlib.AsyncExitStack() as closing:
        metrics, store = WorkerMetrics(), Store(table)
        _watch(metrics.links, table, stream)
        canary = Canary(settings.canary_s, settings.canary_failures, metrics.registry)
        source = EncoderSource(
            store, Generations(table), Rollovers(table), settings, canary.check, metrics.lost
        )
        windows = Windows(store, stream, settings.max_windows, settings.max_window_bytes)
        sequences = Sequences(Ingest(stream, settings), stream, store)
        queue, roster = PushQueue(stream, settings), Roster(stream)
        stop = asyncio.Event()
        patiently = Patience(stop, metrics)
        loader = await closing.enter_async_context(open_pictures(settings, metrics.decoders_died.inc))
        stages = Stages(queue, windows, store, sequences, settings, metrics, patiently, loader.load)
        worker = Worker(queue, stages, sequences, source, roster, settings, metrics, patiently, stop)
        app = FastAPI(title="Repcenter encoder worker", version="1", redirect_slashes=False)
        install_problems(app, "worker")

        async def check() -> None:
            worker.check()

        async def expose() -> bytes:
            return metrics.expose()

        add_health(app, check, expose)
        port = WORKER_HTTP_PORT if settings.http_port is None else settings.http_port
        async with http_server(app, settings.host, port, settings.stop_s, guarded) as url:
            task = asyncio.create_task(_work(worker, canary.watch(source.opened)))
            try:
                yield RunningWorker(url, worker, task)
            finally:
                worker.stop()
                await task


@contextlib.asynccontextmanager
async def open_encoder(
    settings: EncoderSettings, store_settings: StoreSettings
) -> AsyncIterator[RunningEncoder]:
    """Open both doors of an encoder; on leaving, finish what is in flight. Who may score may encode."""
    guarded = protection(DoorSettings(), "score")
    async with clients(store_settings) as (table, stream), contextlib.AsyncExitStack() as closing:
        metrics, store = EncodeMetrics(), Store(table)
        _watch(metrics.links, table, stream)
        canary = Canary(settings.canary_s, settings.canary_failures, metrics.registry)
        source = EncoderSource(store, Generations(table), Rollovers(table), settings, canary.check)
        loader = await closing.enter_async_context(open_pictures(settings, metrics.decoders_died.inc))

        async def live() -> Encoder:
            return (await source.current())[0]

        queue = EncodeQueue(live, loader.load, settings, metrics)
        closing.push_async_callback(cancel, asyncio.create_task(queue.run()))

        async def check() -> None:
            await live()

        async def tell(ready: bool) -> None:
            metrics.ready.set(ready)
            await rpc.tell(ready)

        rpc = encoder_server(EncoderService(queue, metrics), settings, guarded)
        closing.push_async_callback(rpc.stop, settings.stop_s)
        await rpc.start()
        app = create_encode_app(queue, check, metrics, settings)
        port = ENCODER_HTTP_PORT if settings.http_port is None else settings.http_port
        url = await closing.enter_async_context(
            http_server(app, settings.host, port, settings.stop_s, guarded)
        )
        closing.push_async_callback(cancel, asyncio.create_task(follow(check, tell, _READY_S)))
        watching = asyncio.create_task(canary.watch(source.opened))
        try:
            yield RunningEncoder(url, rpc.target, watching)
        finally:
            await cancel(watching)


@contextlib.asynccontextmanager
async def open_sink(settings: SinkSettings, store_settings: StoreSettings) -> AsyncIterator[RunningSink]:
    """Start a sink; on leaving, it writes what it has read."""
    guarded = protection(DoorSettings(), "admin")
    async with clients(store_settings) as (table, stream):
        metrics = SinkMetrics()
        _watch(metrics.links, table, stream)
        sink = Sink(table, stream, settings.root(store_settings), settings, metrics)
        app = FastAPI(title="Repcenter offline sink", version="1", redirect_slashes=False)
        install_problems(app, "sink")

        async def check() -> None:
            sink.check()

        async def expose() -> bytes:
            return metrics.expose()

        add_health(app, check, expose)
        port = SINK_HTTP_PORT if settings.http_port is None else settings.http_port
        async with http_server(app, settings.host, port, settings.stop_s, guarded) as url:
            task = asyncio.create_task(sink.run())
            try:
                yield RunningSink(url, sink, metrics)
            finally:
                sink.stop()
                await task


def run_door(settings: EncoderSettings | None = None, store_settings: StoreSettings | None = None) -> None:
    """The door's process: prints `ready http=… grpc=…`, ends in good order on SIGTERM or SIGINT."""

    async def serve() -> None:
        stop = asyncio.Event()
        on_signals(stop)
        async with open_door(settings or EncoderSettings(), store_settings or StoreSettings()) as door:
            on_signals(stop)  # uvicorn put its own handlers there
            print(f"ready http={door.http_url} grpc={door.grpc_target}", flush=True)
            await stop.wait()

    configure_logs("write-door")
    asyncio.run(serve())


def run_encoder(settings: EncoderSettings | None = None, store_settings: StoreSettings | None = None) -> None:
    """The encoder's process: prints `listening http=… grpc=…`, ends in good order on SIGTERM or SIGINT."""

    async def serve() -> None:
        stop = asyncio.Event()
        on_signals(stop)
        async with open_encoder(settings or EncoderSettings(), store_settings or StoreSettings()) as running:
            on_signals(stop)
            print(f"listening http={running.http_url} grpc={running.grpc_target}", flush=True)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({stopping, running.task}, return_when=asyncio.FIRST_COMPLETED)
            await cancel(stopping)

    configure_logs("encoder")
    asyncio.run(serve())


def run_worker(settings: EncoderSettings | None = None, store_settings: StoreSettings | None = None) -> None:
    """The worker's process: prints `listening http=…`, and `ready http=…` once the encoder is proven.

    SIGTERM or SIGINT: the batch in hand is finished first. Raises where the encoder broke.
    """

    async def serve() -> None:
        stop = asyncio.Event()
        on_signals(stop)
        async with open_worker(settings or EncoderSettings(), store_settings or StoreSettings()) as running:
            on_signals(stop)
            print(f"listening http={running.http_url}", flush=True)
            saying = asyncio.create_task(_say_ready(running))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({stopping, running.task}, return_when=asyncio.FIRST_COMPLETED)
            await cancel(saying)
            await cancel(stopping)

    configure_logs("worker")
    asyncio.run(serve())


def run_sink(settings: SinkSettings | None = None, store_settings: StoreSettings | None = None) -> None:
    """The sink's process: prints `ready http=…`; SIGTERM or SIGINT: what was read is written first."""

    async def serve() -> None:
        stop = asyncio.Event()
        on_signals(stop)
        async with open_sink(settings or SinkSettings(), store_settings or StoreSettings()) as running:
            on_signals(stop)
            print(f"ready http={running.http_url}", flush=True)
            await stop.wait()

    configure_logs("sink")
    asyncio.run(serve())


def _watch(links: LinkMetrics, table: Server, stream: Server) -> None:
    links.watch("tables", lambda: links_of(table))
    if stream is not table:
        links.watch("streams", lambda: links_of(stream))


async def _work(worker: Worker, watch: Coroutine[None, None, None]) -> None:
    """The worker until it ends; it is stopped where the canary gives up, whose error is raised."""
    watching = asyncio.create_task(watch)
    watching.add_done_callback(lambda _: worker.stop())
    try:
        await worker.run()
    finally:
        await cancel(watching)


async def _say_ready(running: RunningWorker) -> None:
    while True:
        with contextlib.suppress(RepcenterError):
            running.worker.check()
            print(f"ready http={running.http_url}", flush=True)
            return
        await asyncio.sleep(0.05)
