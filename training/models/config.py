"""What a ranker is made of: one frozen, serialisable description."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from contracts.errors import InvalidInput
from contracts.features import OPTIONAL_INPUTS, REQUIRED_INPUTS
from training.models.ciubm import CiubmConfig
from training.models.columns import AttributeTable
from training.models.dmae import DmaeConfig
from training.models.documents import from_document, to_document
from training.models.id_interest import IdInterestKind
from training.models.items import ItemContentConfig
from training.models.query import QueryConfig
from training.models.recency import RecencySimilarityConfig
from training.models.similarity import Modality
from training.models.simtier import SimTierConfig
from training.models.target_vector import TargetVectorConfig

ContentConfig = (
    CiubmConfig | DmaeConfig | SimTierConfig | TargetVectorConfig | RecencySimilarityConfig | QueryConfig
)
CONTENT_KINDS: dict[str, type[ContentConfig]] = {
    "ciubm": CiubmConfig,
    "dmae": DmaeConfig,
    "simtier": SimTierConfig,
    "target_vector": TargetVectorConfig,
    "recency_similarity": RecencySimilarityConfig,
    "query": QueryConfig,
}


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """modalities: the space's, in its order. attributes: the item columns. id_dim: d_id.

    context: the columns of users and requests. id_trust: ID vectors count by their evidence. item_content:
    content inside every item embedding. time_gaps: DIN's behaviours carry the time since them.
    history_length: T_max, the size of every position table. content: any set of content modules, in order.
    """

    modalities: tuple[Modality, ...]
    attributes: AttributeTable = field(default_factory=AttributeTable)
    context: AttributeTable = field(default_factory=AttributeTable)
    id_dim: int = 16
    attribute_dim: int = 8
    id_trust: bool = False
    item_content: ItemContentConfig | None = None
    history_length: int = 64
    id_interest: IdInterestKind = "din_position"
    din_hidden: tuple[int, ...] = (80, 40)
    din_softmax: bool = False
    time_gaps: bool = False
    content: tuple[ContentConfig, ...] = ()
    hidden: tuple[int, ...] = (200, 80)

    def __post_init__(self) -> None:
        for name in ("id_dim", "attribute_dim", "history_length"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"ranker.{name}", getattr(self, name), "must be at least 1")
        if self.id_interest not in get_args(IdInterestKind):
            kinds = ", ".join(get_args(IdInterestKind))
            raise InvalidInput("ranker.id_interest", self.id_interest, f"must be one of {kinds}")
        for name in ("hidden", "din_hidden"):
            if not getattr(self, name) or any(size < 1 for size in getattr(self, name)):
                raise InvalidInput(f"ranker.{name}", getattr(self, name), "must be positive sizes")
        names = [m.name for m in self.modalities]
        if len(set(names)) != len(names):
            raise InvalidInput("ranker.modalities", names, "must have different names")
        start = 0
        for modality in self.modalities:
            if modality.start != start:
                where = f"ranker.modalities.{modality.name}.start"
                raise InvalidInput(where, modality.start, f"must be {start}")
            start += modality.dim
        if self.time_gaps and self.id_interest not in ("din", "din_position"):
            raise InvalidInput("ranker.time_gaps", self.id_interest, "needs din or din_position")
        readers = [(f"content[{i}]", content.modalities) for i, content in enumerate(self.content)]
        if self.item_content is not None:
            readers.append(("item_content", self.item_content.modalities))
        for where, read in readers:
            for name in read:
                if name not in names:
                    raise InvalidInput(f"ranker.{where}", name, f"is not one of the modalities {names}")

    @property
    def content_modalities(self) -> tuple[str, ...]:
        """The modalities of which some content module compares target and history, in the space's order."""
        used = {name for c in self.content if not isinstance(c, QueryConfig) for name in c.modalities}
        return tuple(m.name for m in self.modalities if m.name in used)

    @property
    def query_modalities(self) -> tuple[str, ...]:
        """The modalities of which a search's vector is read, in the space's order."""
        used = {name for c in self.content if isinstance(c, QueryConfig) for name in c.modalities}
        return tuple(m.name for m in self.modalities if m.name in used)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The graph inputs of contracts.features that a ranker of this configuration reads."""
        optional = {
            "attribute_values": self.attributes.scaled,
            "id_evidence": self.id_trust,
            "gaps": self.time_gaps,
            "context": bool(self.context.slots),
            "context_values": self.context.scaled,
            "query_codes": bool(self.query_modalities),
            "query_inv_norm": bool(self.query_modalities),
        }
        return REQUIRED_INPUTS + tuple(name for name in OPTIONAL_INPUTS if optional[name])

    def to_dict(self) -> dict[str, Any]:
        """A JSON document; each content module carries its `kind`."""
        document: dict[str, Any] = to_document(self)
        kinds = {cls: kind for kind, cls in CONTENT_KINDS.items()}
        document["content"] = [{"kind": kinds[type(c)], **to_document(c)} for c in self.content]
        return document

    @classmethod
    def from_dict(cls, document: object) -> RankerConfig:
        """`to_dict` back; InvalidInput names the field that cannot be used."""
        if not isinstance(document, dict):
            raise InvalidInput("ranker", document, "must be an object")
        modules = document.get("content", [])
        if not isinstance(modules, list):
            raise InvalidInput("ranker.content", modules, "must be a list")
        content = tuple(_content(module, f"ranker.content[{i}]") for i, module in enumerate(modules))
        return from_document(cls, {**document, "content": content}, "ranker")


def _content(document: object, where: str) -> ContentConfig:
    if not isinstance(document, dict):
        raise InvalidInput(where, document, "must be an object")
    kind = document.get("kind")
    if kind not in CONTENT_KINDS:
        raise InvalidInput(f"{where}.kind", kind, f"must be one of {', '.join(CONTENT_KINDS)}")
    return from_document(CONTENT_KINDS[kind], {k: v for k, v in document.items() if k != "kind"}, where)
