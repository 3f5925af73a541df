"""The load drivers run against the same small world as the scorer's own tests, without its cache: a store
that stands still has to be felt."""

from __future__ import annotations

import pytest

from serving.settings import ScorerSettings
from tests.serving.conftest import bundles, running, world
from tests.serving.conftest import scorer_settings as cached_settings

__all__ = ["bundles", "cached_settings", "running", "scorer_settings", "world"]


@pytest.fixture
def scorer_settings(cached_settings: ScorerSettings) -> ScorerSettings:
    return cached_settings.model_copy(update={"cache_bytes": 0})
