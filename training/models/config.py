"""What a ranker is made of: one frozen, serialisable description."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

from contracts.errors import InvalidInput
from training.models.ciubm import CiubmConfig
from training.models.dmae import DmaeConfig
from training.models.documents import from_document, to_document
from training.models.id_interest import IdInterestKind
from training.models.items import AttributeTable
from training.models.similarity import Modality
from training.models.simtier import SimTierConfig
from training.models.target_vector import TargetVectorConfig

ContentConfig = CiubmConfig | DmaeConfig | SimTierConfig | TargetVectorConfig
CONTENT_KINDS: dict[str, type[ContentConfig]] = {
    "ciubm": CiubmConfig,
    "dmae": DmaeConfig,
    "simtier": SimTierConfig,
    "target_vector": TargetVectorConfig,
}


@dataclass(frozen=True, kw_only=True)
class RankerConfig:
    """modalities: the space's, in its order. attributes: the item columns. id_dim: d_id.

    history_length: T_max, the size of every position table. content: any set of content modules, in order.
    """

    modalities: tuple[Modality, ...]
    attributes: AttributeTable = field(default_factory=AttributeTable)
    id_dim: int = 16
    attribute_dim: int = 8
    history_length: int = 64
    id_interest: IdInterestKind = "din_position"
    din_hidden: tuple[int, ...] = (80, 40)
    din_softmax: bool = False
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
        for i, content in enumerate(self.content):
            for name in content.modalities:
                if name not in names:
                    raise InvalidInput(f"ranker.content[{i}]", name, f"is not one of the modalities {names}")

    @property
    def content_modalities(self) -> tuple[str, ...]:
        """The modalities that some content module reads, in the space's order."""
        used = {name for content in self.content for name in content.modalities}
        return tuple(m.name for m in self.modalities if m.name in used)

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
