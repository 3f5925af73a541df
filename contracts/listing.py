"""The answer to "what is published and what serves": both doors translate it, the client gives it back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SceneInfo:
    """One scene that the asked scorer serves; revision: of the scene's pointer."""

    name: str
    generation: str
    revision: int


@dataclass(frozen=True)
class GenerationInfo:
    """One published generation."""

    id: str
    created_ms: int
    space_id: str
    encoder_digest: str
    ranker_digest: str


@dataclass(frozen=True)
class GenerationList:
    """generations: newest first."""

    scenes: list[SceneInfo]
    generations: list[GenerationInfo]
