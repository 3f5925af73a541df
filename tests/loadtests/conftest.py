"""The load drivers run against the same small world as the scorer's own tests."""

from __future__ import annotations

from tests.serving.conftest import bundles, running, scorer_settings, world

__all__ = ["bundles", "running", "scorer_settings", "world"]
