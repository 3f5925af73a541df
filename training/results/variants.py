"""The ladder: every ranker that is compared, and what each is compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contracts.errors import InvalidInput
from training.models.ciubm import CiubmConfig
from training.models.columns import AttributeTable
from training.models.config import ContentConfig, RankerConfig
from training.models.dmae import DmaeConfig
from training.models.id_interest import IdInterestKind
from training.models.items import ItemContentConfig
from training.models.recency import RecencySimilarityConfig
from training.models.similarity import Modality, side_by_side
from training.models.simtier import SimTierConfig
from training.models.target_vector import TargetVectorConfig

MODALITIES = ("text", "image", "fused", "loo")
NOTHING = "nothing"
NO_VECTORS = "–"
BEST = "best"

Build = Callable[[Sequence[Modality], AttributeTable], RankerConfig]


@dataclass(frozen=True)
class Variant:
    """warm: an oracle, its new items are trained like all others; against: what its gain is taken over."""

    name: str
    title: str
    build: Build
    warm: bool = False
    learning_rate: float | None = None
    against: str = NOTHING

    @property
    def definition(self) -> str:
        """A digest of what is trained: no result of another ranker passes for this one's."""
        config = self.build(side_by_side((name, 128) for name in MODALITIES), AttributeTable((1,), 2))
        document = json.dumps([config.to_dict(), self.warm, self.learning_rate], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]


def _ranker(
    *content: ContentConfig,
    inside: tuple[str, ...] = (),
    attributes: bool = True,
    kind: IdInterestKind = "din_position",
) -> Build:
    def build(modalities: Sequence[Modality], columns: AttributeTable) -> RankerConfig:
        return RankerConfig(
            modalities=tuple(modalities),
            attributes=columns if attributes else AttributeTable(),
            id_interest=kind,
            item_content=ItemContentConfig(modalities=inside) if inside else None,
            content=content,
        )

    return build


_LOO = ("loo",)
_RECENCY = RecencySimilarityConfig(modalities=_LOO)
_DMAE = DmaeConfig(modalities=("fused", "loo"), without_iddu=True)
_TARGET = TargetVectorConfig(modalities=_LOO)
_BEST = _ranker(_TARGET, _RECENCY, inside=_LOO)

_LADDER = (
    Variant("din", "DIN, IDs alone", _ranker(attributes=False, kind="din")),
    Variant("position", "DIN + position, IDs alone", _ranker(attributes=False), against="din"),
    Variant(NOTHING, "DIN + position + attributes", _ranker(), against="position"),
    Variant("target", "+ target vector", _ranker(_TARGET)),
    Variant("simtier", "+ SimTier", _ranker(SimTierConfig(modalities=_LOO))),
    Variant("simtier6", "+ SimTier in 6 windows", _ranker(SimTierConfig(modalities=_LOO, windows=6))),
    Variant("ciubm", "+ CiUBM", _ranker(CiubmConfig(modality="loo"))),
    Variant("dmae", "+ DMAE", _ranker(DmaeConfig(modalities=("fused", "loo")))),
    Variant("dmae_plain", "+ DMAE without IDDU", _ranker(_DMAE), against="dmae"),
    Variant("dmae_towers", "+ DMAE, text and image", _ranker(DmaeConfig())),
    Variant("inside", "+ content inside DIN", _ranker(inside=_LOO)),
    Variant("inside_csft", "+ content inside DIN, C-SFT", _ranker(inside=("fused",))),
    Variant("recency", "+ similarity by recency", _ranker(_RECENCY)),
    Variant(BEST, "best combination: inside, recency, target", _BEST),
    Variant(
        "best_dmae",
        "best combination + DMAE without IDDU",
        _ranker(_TARGET, _RECENCY, _DMAE, inside=_LOO),
        against=BEST,
    ),
    Variant("oracle", "oracle of DIN + position + attributes", _ranker(), warm=True),
    Variant("oracle_best", "oracle of the best combination", _BEST, warm=True, against=BEST),
)
VARIANTS = {variant.name: variant for variant in _LADDER}


def variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of these names, in the ladder's order; all where none is named."""
    for name in names:
        if name not in VARIANTS:
            raise InvalidInput("variants", name, f"must be among {', '.join(VARIANTS)}")
    return tuple(v for v in _LADDER if not names or v.name in names)


def vectors_read(config: RankerConfig) -> str:
    """Which content vectors a ranker reads, for a table."""
    inside = config.item_content.modalities if config.item_content else ()
    names = [m.name for m in config.modalities if m.name in {*config.content_modalities, *inside}]
    return ", ".join(names) or NO_VECTORS
