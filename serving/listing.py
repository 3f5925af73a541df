"""What is published and what this scorer serves, for both doors."""

from __future__ import annotations

from contracts.listing import GenerationInfo, GenerationList, SceneInfo
from param_server.generations import Generations
from serving.live import LiveGenerations


class Listing:
    """Reads the published generations; scenes are those that this scorer serves now."""

    def __init__(self, generations: Generations, live: LiveGenerations) -> None:
        self._generations = generations
        self._live = live

    async def read(self) -> GenerationList:
        """Newest generation first. Raises Unavailable."""
        published = await self._generations.list()
        return GenerationList(
            scenes=[
                SceneInfo(scene, serving.loaded.id, serving.revision)
                for scene, serving in sorted(self._live.serving().items())
            ],
            generations=[
                GenerationInfo(g.id, g.created_ms, g.space.id, g.encoder_digest, g.ranker_digest)
                for g in sorted(published, key=lambda g: (g.created_ms, g.id), reverse=True)
            ],
        )
