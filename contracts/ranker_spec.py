"""What a ranker bundle's manifest says: its graph, its space, how it reads features, its ID rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from contracts.calibration import UNCALIBRATED, Calibration, calibration_from_json
from contracts.codec import CODEC_NAMES, CONTENT_INT8, ID_INT8
from contracts.errors import InvalidInput, UnknownVersion
from contracts.schema import FeatureSchema, schema_from_json
from contracts.space import Space, space_from_json

RANKER_SPEC_VERSION = 2
REFERENCE = "reference.onnx"  # the equations term by term: explains scores that ranker.onnx computed
# ranker.onnx in two (contracts.user_side): what behaviours alone give, and the rest; both or none
USER, WITH_USER = "user.onnx", "with_user.onnx"


@dataclass(frozen=True)
class RankerSpec:
    """graph, id_rows: file names in the bundle; id_rows is Parquet (item_id string, row binary).

    model: the architecture's configuration, for people and retraining; report: offline metrics;
    calibration: what the graph's score does to its logit, the graph has it built in. id_row_count: rows in
    id_rows; id_base: None where these are all, else the name of the published ID table that they are an
    overlay of. weights: file to train on from (training.weights), None where the bundle has none.
    """

    model: Mapping[str, Any]
    space: Space
    schema: FeatureSchema
    id_row_count: int
    report: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration = UNCALIBRATED
    tolerance: float = 1e-4
    id_codec: int = ID_INT8
    graph: str = "ranker.onnx"
    id_rows: str = "id_rows.parquet"
    id_base: str | None = None
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.space.codec != CONTENT_INT8:
            codec = CODEC_NAMES[self.space.codec]
            raise InvalidInput("space.codec", codec, "is not read by rankers: their graphs take int8 codes")

    def to_json(self) -> dict[str, Any]:
        return {
            "version": RANKER_SPEC_VERSION,
            "model": dict(self.model),
            "space": self.space.to_json(),
            "schema": self.schema.to_json(),
            "id_row_count": self.id_row_count,
            "report": dict(self.report),
            "calibration": self.calibration.to_json(),
            "tolerance": self.tolerance,
            "id_codec": CODEC_NAMES[self.id_codec],
            "graph": self.graph,
            "id_rows": self.id_rows,
            "id_base": self.id_base,
            "weights": self.weights,
        }


def ranker_spec_from_json(document: dict[str, Any]) -> RankerSpec:
    """`RankerSpec.to_json()` back; UnknownVersion or InvalidInput otherwise."""
    if document.get("version") != RANKER_SPEC_VERSION:
        raise UnknownVersion("ranker spec", document.get("version"), RANKER_SPEC_VERSION)
    codecs = {name: codec for codec, name in CODEC_NAMES.items()}
    try:
        return RankerSpec(
            model=dict(document["model"]),
            space=space_from_json(document["space"]),
            schema=schema_from_json(document["schema"]),
            id_row_count=int(document["id_row_count"]),
            report=dict(document["report"]),
            calibration=calibration_from_json(document["calibration"]),
            tolerance=float(document["tolerance"]),
            id_codec=codecs[document["id_codec"]],
            graph=str(document["graph"]),
            id_rows=str(document["id_rows"]),
            id_base=_optional(document["id_base"]),
            weights=_optional(document["weights"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInput("ranker spec", document, f"is malformed: {error!r}") from error


def _optional(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"expected a string or null, got {type(value).__name__}")
    return value
