"""infinity beside the bare loop: left out, not to be installed, and (`make test-benches`) installed."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from contracts.items import Item
from contracts.onnx_model import OnnxModel
from contracts.towers import encode_texts
from param_server.peer_environment import peer_python
from realtime_infer.bare_loop import BareLoop
from realtime_infer.infinity_process import LEFT_OUT, Infinity, text_rates
from tests.encoder_bundle import picture
from training.freshness_bundles import trivial_encoder
from training.recipes.text_tower import text_model, text_tower

ITEMS = [Item(f"item {n}", {"title": f"{n} {n + 1}"}, image=picture((9 * n, 50, 90))) for n in range(40)]


@pytest.fixture
def loop(tmp_path: Path) -> BareLoop:
    return BareLoop(trivial_encoder(tmp_path / "encoder"), ITEMS)


def test_the_texts_of_the_bare_loop_have_a_rate(loop: BareLoop, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    rates = text_rates(loop, None, tmp_path, tmp_path / "log", lambda done, total: seen.append((done, total)))
    assert loop.texts[39] == "39 40"
    assert loop.encode_texts().shape == (40, 128)
    assert rates.bare > 0
    assert (rates.infinity, rates.why) == (None, LEFT_OUT)
    assert seen[-1] == (len(seen), len(seen))


def test_what_cannot_be_installed_is_said_and_made_anew_later(
    loop: BareLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, directory = tmp_path / "wheels", tmp_path / "peer"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    rates = text_rates(loop, directory, tmp_path, tmp_path / "log", lambda done, total: None)
    assert rates.bare > 0
    assert rates.infinity is None
    assert "No matching distribution found for infinity-emb" in rates.why
    half = directory / "half"
    half.touch()
    with zipfile.ZipFile(wheels / "tiny_peer-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_peer.py", "print('whole')")
        about = {"METADATA": "Metadata-Version: 2.1\nName: tiny-peer\nVersion: 1.0\n", "RECORD": ""}
        about["WHEEL"] = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        for name, text in about.items():
            wheel.writestr(f"tiny_peer-1.0.dist-info/{name}", text)
    python = peer_python(directory, ["tiny-peer==1.0"])
    assert not half.exists()
    assert subprocess.check_output([python, "-m", "tiny_peer"]) == b"whole\n"
    half.touch()
    assert peer_python(directory, ["tiny-peer==1.0"]) == python
    assert half.exists()  # it was whole: nothing was made


@pytest.mark.benches
@pytest.mark.timeout(900)  # the first time it is installed
def test_infinity_gives_the_text_towers_vectors(loop: BareLoop, tmp_path: Path) -> None:
    directory, log = Path("var/bench/infinity"), tmp_path / "log"
    other = text_rates(loop, directory, text_model(), log, lambda done, total: None)
    assert other.infinity is None
    assert "vectors of shape (40, 384), the text graph's are (40, 128)" in other.why
    texts = ["a title", "another one, much longer than the first", *loop.texts]
    infinity = Infinity((directory / "bin" / "python").absolute(), text_model(), texts, log)
    try:
        tower = text_tower(tmp_path / "cache")
        ours = encode_texts(Tokenizer.from_file(str(tower.tokenizer)), 128, OnnxModel(tower.graph), texts)
        assert np.abs(infinity.vectors - ours).max() < 1e-4
        assert infinity.embed() > 0
    finally:
        infinity.close()
    with pytest.raises(OSError, match="No such file"):
        Infinity(tmp_path / "no python", text_model(), texts, log)
