"""One generation, opened, proven and warm: everything that a request needs besides its rows.

Opening refuses what would give wrong scores: another space, other attribute fields, another ID
table, a query of other modalities, a graph of another signature or one that reads what its schema does
not give, a golden output that this runtime does not reproduce.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from contracts.bundle import Bundle, open_bundle
from contracts.codec import CODEC_NAMES, ID_INT8
from contracts.errors import BrokenBundle, Conflict, ProviderUnavailable, Unavailable, UnknownVersion
from contracts.features import GRAPH_INPUTS, GRAPH_OUTPUTS, Assembled, given_inputs
from contracts.manifest import Generation, IdTable
from contracts.onnx_model import OnnxModel, Runs, replay
from contracts.ranker_spec import REFERENCE, USER, WITH_USER, RankerSpec, ranker_spec_from_json
from contracts.schema import FeatureSchema
from contracts.space import Space, same_space
from contracts.user_side import UserSide
from param_server.generations import Generations
from param_server.store import Store
from serving.bucketed import BucketedRuns, HowGraphsRun, bucketed, wants_cuda_graphs
from serving.run_time import RunTime
from serving.settings import ScorerSettings
from serving.user_states import CachedUserSide, UserStates
from serving.warm_up import warm, warm_buckets

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedGeneration:
    """Held by the scenes that serve it and by each request that pinned it; freed when the last lets go.

    reference: the graph that explains scores, None where the bundle has none. user_side: the graph in two,
    for single requests, None where no states are kept or the bundle has it in one piece only.
    buckets: the graph in few shapes, None where it runs in those that come.
    """

    id: str
    generation: Generation
    schema: FeatureSchema
    model: OnnxModel
    run_time: RunTime = field(default_factory=RunTime)
    reference: Path | None = None
    user_side: CachedUserSide | None = None
    buckets: BucketedRuns | None = None

    @property
    def space(self) -> Space:
        return self.generation.space

    @property
    def id_table(self) -> IdTable:
        return self.generation.id_table

    @property
    def how(self) -> HowGraphsRun:
        """For the log and a metric."""
        captured = self.buckets is not None and self.model.captures
        return HowGraphsRun(
            self.model.device, "off" if self.buckets is None else "on", "captured" if captured else "off"
        )

    def run(
        self,
        assembled: Assembled,
        inputs: dict[str, npt.NDArray[np.generic]],
    ) -> npt.NDArray[np.float32]:
        """Index arrays, what requests carry and row inputs -> scores (B, N) float32."""
        alone = self.user_side is not None and len(assembled.candidates) == 1
        graph: Runs = self.model if self.buckets is None else self.buckets
        if self.user_side is not None and alone:
            graph = self.user_side
        outputs = graph.run({**inputs, **assembled.inputs()}, ["score"])
        scores: npt.NDArray[np.float32] = outputs["score"]
        return scores


async def load_generation(
    generation_id: str,
    generations: Generations,
    store: Store,
    settings: ScorerSettings,
    kernels: Path | None = None,
    states: UserStates | None = None,
) -> LoadedGeneration:
    """Check the tables, then open, replay and warm the ranker beside whatever serves now.

    kernels: the library of contracts.kernels, None = ONNX Runtime's own operators. states: where users'
    states are kept, None = nowhere.
    Raises NotFound, SpaceMismatch, Conflict, BrokenBundle, UnknownVersion, Unavailable.
    """
    await store.check_server()
    generation = await generations.get(generation_id)
    table = await store.space(generation.space.id)
    same_space(generation.space.id, table.id, f"table of generation {generation_id}")
    if not await store.id_table_ready(generation.id_table):
        raise Unavailable(
            f"ID table {generation.id_table.name!r} of generation {generation_id} is not sealed"
        )
    return await asyncio.to_thread(open_generation, generation, settings, kernels, states)


def open_generation(
    generation: Generation,
    settings: ScorerSettings,
    kernels: Path | None = None,
    states: UserStates | None = None,
) -> LoadedGeneration:
    """The blocking part of `load_generation`: digests, specification, session, golden replay, warm-up.

    Raises ProviderUnavailable where CUDA graphs are asked for by all means and refused.
    """
    if wants_cuda_graphs(settings):
        try:
            return _open(generation, settings, kernels, states, cuda_graphs=True)
        except ProviderUnavailable as error:
            if settings.cuda_graphs == "on":
                raise
            log.warning("generation %s runs without CUDA graphs: %s", generation.id, error)
    return _open(generation, settings, kernels, states, cuda_graphs=False)


def _open(
    generation: Generation,
    settings: ScorerSettings,
    kernels: Path | None,
    states: UserStates | None,
    *,
    cuda_graphs: bool,
) -> LoadedGeneration:
    bundle = open_bundle(generation.ranker_uri, generation.ranker_digest)
    if bundle.manifest.kind != "ranker":
        raise Conflict(f"bundle {bundle.digest[:12]} is a bundle of kind {bundle.manifest.kind}, not ranker")
    spec = ranker_spec_from_json(dict(bundle.manifest.content))
    check_spec(spec, generation)
    model = OnnxModel(
        bundle.file(spec.graph),
        device=settings.device,
        threads=settings.threads,
        kernels=kernels,
        cuda_graphs=cuda_graphs,
    )
    _check_signature(model, spec.schema, bundle)
    replay(bundle, {_golden_graph(bundle): model}, spec.tolerance)
    reference = bundle.file(REFERENCE) if REFERENCE in bundle.manifest.files else None
    side = None if states is None else _user_side(bundle, spec, settings, kernels)
    loaded = LoadedGeneration(
        generation.id,
        generation,
        spec.schema,
        model,
        reference=reference,
        user_side=None if side is None or states is None else CachedUserSide(side, states, generation.id),
        buckets=bucketed(model, settings, spec.schema.history_length),
    )
    try:
        graphs: list[Runs] = [model] if loaded.buckets is None else []
        warm(generation, spec.schema, [*graphs, *([] if side is None else [side])], loaded.run_time)
        if loaded.buckets is not None:
            warm_buckets(generation, spec.schema, loaded.buckets, loaded.run_time)
    except ProviderUnavailable:
        raise
    except Exception as error:  # ORT's exceptions share no base class
        raise BrokenBundle(
            f"bundle {bundle.digest[:12]}: the graph cannot run its schema: {error}"
        ) from error
    return loaded


def check_spec(spec: RankerSpec, generation: Generation) -> None:
    """Refuse a ranker that was trained on other rows than the generation's tables hold."""
    where = f"ranker of generation {generation.id}"
    same_space(generation.space.id, spec.space.id, where)
    space, schema = generation.space, spec.schema
    fields = tuple(f.field for f in schema.items)
    if fields != space.attributes:
        raise Conflict(f"{where}: reads attributes {fields}, the space has {space.attributes}")
    if schema.query and schema.query != space.modalities:
        raise Conflict(f"{where}: reads queries of {schema.query}, the space has {space.modalities}")
    table = generation.id_table
    if spec.id_codec != ID_INT8 or table.codec != ID_INT8:
        found = (CODEC_NAMES.get(spec.id_codec), CODEC_NAMES.get(table.codec))
        raise UnknownVersion(f"{where}: ID row codec", found, "id_int8")
    if (schema.id_dim, spec.id_row_count) != (table.dim, table.rows):
        raise Conflict(
            f"{where}: expects {spec.id_row_count} ID rows of {schema.id_dim} dimensions, "
            f"table {table.name!r} has {table.rows} of {table.dim}"
        )
    if spec.id_base != table.base:
        raise Conflict(
            f"{where}: expects ID rows over base {spec.id_base!r}, "
            f"table {table.name!r} is over {table.base!r}"
        )


def _check_signature(model: OnnxModel, schema: FeatureSchema, bundle: Bundle) -> None:
    unknown = sorted(set(model.input_names) - set(GRAPH_INPUTS))
    absent = sorted(set(GRAPH_OUTPUTS) - set(model.output_names))
    if unknown or absent:
        raise BrokenBundle(
            f"bundle {bundle.digest[:12]}: the graph has unknown inputs {unknown}, lacks outputs {absent}"
        )
    untold = sorted(set(model.input_names) - set(given_inputs(schema)))
    if untold:
        raise BrokenBundle(f"bundle {bundle.digest[:12]}: the graph reads {untold}, which its schema lacks")


def _user_side(
    bundle: Bundle, spec: RankerSpec, settings: ScorerSettings, kernels: Path | None
) -> UserSide | None:
    """The graph in two, proven as the whole is; None where the bundle has no such files."""
    if not {USER, WITH_USER} <= bundle.manifest.files.keys():
        return None
    first, second = (
        OnnxModel(bundle.file(name), device=settings.device, threads=settings.threads, kernels=kernels)
        for name in (USER, WITH_USER)
    )
    side = UserSide(first, second)
    untold = sorted(set(side.input_names) - set(given_inputs(spec.schema)))
    if untold:
        raise BrokenBundle(
            f"bundle {bundle.digest[:12]}: the user side reads {untold}, which its schema lacks"
        )
    worst = replay(bundle, {_golden_graph(bundle): side}, spec.tolerance)
    log.info("bundle %s: users' states reproduce its golden outputs within %.3g", bundle.digest[:12], worst)
    return side


def _golden_graph(bundle: Bundle) -> str:
    graphs = sorted(bundle.golden())
    if len(graphs) != 1:
        raise BrokenBundle(f"bundle {bundle.digest[:12]}: golden inputs of {graphs}, expected one graph")
    return graphs[0]
