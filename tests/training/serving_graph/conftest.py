from __future__ import annotations

from pathlib import Path

import pytest

from contracts.kernels import build


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = build(tmp_path_factory.mktemp("kernels"))
    if library is None:
        pytest.skip("no C compiler on this machine")
    return library
