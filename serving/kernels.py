"""The compiled kernels of this process, or none: a graph gives the same scores without them, slower."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from contracts import kernels
from contracts.errors import ProviderUnavailable
from contracts.onnx_model import check_kernels
from serving.settings import ScorerSettings

log = logging.getLogger(__name__)


async def ranker_kernels(settings: ScorerSettings, var_dir: Path) -> Path | None:
    """The library for `OnnxModel`, compiled in `var_dir`/kernels where it is not there; says which is used.

    None on CUDA, with kernels=false, and where it cannot be compiled or loaded. Takes 30 s at most.
    """
    if settings.device != "cpu" or not settings.kernels:
        log.info("kernels: portable (device %s, kernels=%s)", settings.device, settings.kernels)
        return None
    library = await asyncio.to_thread(_library, var_dir.resolve() / "kernels")
    log.info("kernels: %s", f"compiled ({library})" if library else "portable (none for this machine)")
    return library


def _library(directory: Path) -> Path | None:
    library = kernels.build(directory)
    if library is None:
        return None
    try:
        check_kernels(library)
    except ProviderUnavailable as error:
        log.warning("%s", error)
        with contextlib.suppress(OSError):
            library.unlink()  # the next start compiles again
        return None
    return library
