"""Bundles: sealed once, opened only when every byte is as sealed, published to any store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from contracts.bundle import (
    GOLDEN,
    MANIFEST,
    Bundle,
    Golden,
    open_bundle,
    publish,
    seal,
    sha256_of,
    write_golden,
)
from contracts.errors import BrokenBundle, InvalidInput, NotFound, UnknownVersion
from contracts.onnx_model import OnnxModel, replay
from tests.contracts.graphs import write_double

X = np.array([[1, 2, 3]], np.float32)
GOOD: Golden = {"double": ({"x": X}, {"y": 2 * X, "z": 3 * X})}


def sealed(directory: Path, golden: Golden = GOOD) -> Bundle:
    (directory / "vocabulary").mkdir(parents=True)
    write_double(directory / "double.onnx")
    (directory / "vocabulary" / "genres.txt").write_text("Crime\nDrama\n")
    write_golden(directory, golden)
    return seal(directory, "ranker", {"tolerance": 1e-4})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return sealed(tmp_path / "work")


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of an empty in-memory object store."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    yield "memory://bundles"
    store.store.clear()


def rewritten(bundle: Bundle, **changed: Any) -> None:
    """Change the manifest of a sealed bundle, as an attacker or a bad tool would."""
    path = bundle.path / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_a_sealed_bundle_opens_as_it_was(bundle: Bundle) -> None:
    again = open_bundle(str(bundle.path), bundle.digest)
    assert again == bundle
    assert sorted(again.manifest.files) == ["double.onnx", GOLDEN, "vocabulary/genres.txt"]
    assert again.manifest.content == {"tolerance": 1e-4}
    assert again.file("vocabulary/genres.txt").read_text() == "Crime\nDrama\n"
    with pytest.raises(BrokenBundle, match="has no file"):
        again.file("absent.txt")


def test_golden_round_trips(bundle: Bundle) -> None:
    inputs, outputs = bundle.golden()["double"]
    np.testing.assert_array_equal(inputs["x"], X)
    assert {name: array.dtype.str for name, array in outputs.items()} == {"y": "<f4", "z": "<f4"}


def test_a_bundle_is_sealed_once_and_with_its_proof(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match="is sealed already"):
        seal(bundle.path, "ranker", {})
    (tmp_path / "bare").mkdir()
    with pytest.raises(InvalidInput, match=GOLDEN):
        seal(tmp_path / "bare", "encoder", {})


@pytest.mark.parametrize("name", ["double.onnx", GOLDEN, "vocabulary/genres.txt"])
def test_a_changed_byte_is_found(bundle: Bundle, name: str) -> None:
    data = bytearray(bundle.file(name).read_bytes())
    data[len(data) // 2] ^= 1
    bundle.file(name).write_bytes(data)
    with pytest.raises(BrokenBundle, match=f"{name}.*sha256"):
        open_bundle(str(bundle.path))


@pytest.mark.parametrize("name", ["double.onnx", "vocabulary/genres.txt"])
def test_a_longer_shorter_or_missing_file_is_found(bundle: Bundle, name: str) -> None:
    data = bundle.file(name).read_bytes()
    for changed in (data + b"\0", data[:-1], b""):
        bundle.file(name).write_bytes(changed)
        with pytest.raises(BrokenBundle, match="does not match"):
            open_bundle(str(bundle.path))
    bundle.file(name).unlink()
    with pytest.raises(BrokenBundle, match="is missing"):
        open_bundle(str(bundle.path))
    bundle.file(name).mkdir()
    with pytest.raises(BrokenBundle, match="is missing"):
        open_bundle(str(bundle.path))


def test_another_digest_than_expected_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BrokenBundle, match="expected 000000000000"):
        open_bundle(str(bundle.path), "0" * 64)
    rewritten(bundle, content={"tolerance": 1.0})
    with pytest.raises(BrokenBundle, match="digest is"):
        open_bundle(str(bundle.path), bundle.digest)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "a/../../outside",
        "/etc/passwd",
        "..",
        ".",
        "",
        "./double.onnx",
        "a//b",
        "a\\..\\b",
        "a\0b",
        MANIFEST,
    ],
)
def test_file_names_that_leave_the_bundle_are_refused(bundle: Bundle, memory: str, name: str) -> None:
    (bundle.path.parent / "outside").write_text("secret")
    files = {name: {"sha256": sha256_of(bundle.path.parent / "outside"), "size": 6}}
    rewritten(bundle, files=files)
    with pytest.raises(BrokenBundle, match="leaves the bundle"):
        open_bundle(str(bundle.path))
    store, base = fsspec.core.url_to_fs(memory)
    store.pipe_file(f"{base}/{MANIFEST}", (bundle.path / MANIFEST).read_bytes())
    with pytest.raises(BrokenBundle, match="leaves the bundle"):
        open_bundle(memory, cache=bundle.path.parent / "cache")


@pytest.mark.parametrize("version", [0, 2, None])
def test_unknown_bundle_version_is_refused(bundle: Bundle, version: object) -> None:
    rewritten(bundle, version=version)
    with pytest.raises(UnknownVersion, match="bundle manifest"):
        open_bundle(str(bundle.path))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version":1}', b'{"version":1,"kind":"ranker"}'])
def test_a_broken_manifest_is_a_broken_bundle(bundle: Bundle, data: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(data)
    with pytest.raises(BrokenBundle):
        open_bundle(str(bundle.path))


@pytest.mark.parametrize("uri", ["absent", "work/double.onnx", "memory://absent"])
def test_where_no_bundle_is(bundle: Bundle, uri: str) -> None:
    where = uri if "://" in uri else str(bundle.path.parent / uri)
    with pytest.raises(NotFound, match="bundle"):
        open_bundle(where)


@pytest.mark.parametrize("uri", ["nosuchprotocol://x/y", "a\0b"])
def test_uris_that_cannot_be_used(bundle: Bundle, uri: str) -> None:
    with pytest.raises(InvalidInput, match=r"^uri: "):
        open_bundle(uri)
    with pytest.raises(InvalidInput, match=r"^uri: "):
        publish(bundle, uri)


def test_publish_to_a_directory(bundle: Bundle, tmp_path: Path) -> None:
    uri = publish(bundle, str(tmp_path / "store"))
    assert uri == f"file://{tmp_path}/store/ranker-{bundle.digest[:12]}"
    again = open_bundle(uri, bundle.digest)
    assert again.path == tmp_path / "store" / f"ranker-{bundle.digest[:12]}"
    assert again.manifest == bundle.manifest
    assert publish(bundle, str(tmp_path / "store")) == uri


def test_publish_to_an_object_store(bundle: Bundle, memory: str, tmp_path: Path) -> None:
    uri = publish(bundle, memory)
    assert uri == f"memory:///bundles/ranker-{bundle.digest[:12]}"
    again = open_bundle(uri, bundle.digest, tmp_path / "cache")
    assert again.path == tmp_path / "cache" / bundle.digest
    assert again.manifest == bundle.manifest
    assert again.file("vocabulary/genres.txt").read_text() == "Crime\nDrama\n"
    fsspec.filesystem("memory").store.pop(f"/bundles/ranker-{bundle.digest[:12]}/double.onnx")
    assert open_bundle(uri, bundle.digest, tmp_path / "cache") == again  # copied once


def test_a_half_copied_bundle_is_none_and_is_completed(bundle: Bundle, memory: str, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    uri = publish(bundle, memory)
    path = f"/bundles/ranker-{bundle.digest[:12]}"
    store.rm_file(f"{path}/{MANIFEST}")
    store.rm_file(f"{path}/double.onnx")
    with pytest.raises(NotFound):
        open_bundle(uri, cache=tmp_path / "cache")
    publish(bundle, memory)
    assert open_bundle(uri, bundle.digest, tmp_path / "cache").manifest == bundle.manifest


def test_a_file_missing_from_an_object_store_leaves_nothing_behind(
    bundle: Bundle, memory: str, tmp_path: Path
) -> None:
    uri = publish(bundle, memory)
    fsspec.filesystem("memory").rm_file(f"/bundles/ranker-{bundle.digest[:12]}/double.onnx")
    with pytest.raises(BrokenBundle, match=r"double\.onnx.*missing"):
        open_bundle(uri, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_was_cut_short_on_its_way_is_not_kept(bundle: Bundle, memory: str, tmp_path: Path) -> None:
    uri = publish(bundle, memory)
    store, file = fsspec.filesystem("memory"), f"/bundles/ranker-{bundle.digest[:12]}/double.onnx"
    whole = store.cat_file(file)
    store.pipe_file(file, whole[:-1])
    with pytest.raises(BrokenBundle, match=r"double\.onnx.*sha256"):
        open_bundle(uri, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    store.pipe_file(file, whole)
    assert open_bundle(uri, cache=tmp_path / "cache").manifest == bundle.manifest


def test_a_tampered_copy_of_an_object_store_is_found(bundle: Bundle, memory: str, tmp_path: Path) -> None:
    uri = publish(bundle, memory)
    cached = open_bundle(uri, cache=tmp_path / "cache")
    cached.file("vocabulary/genres.txt").write_text("Crime\nDrama!")
    with pytest.raises(BrokenBundle, match="sha256"):
        open_bundle(uri, cache=tmp_path / "cache")


def test_many_may_open_at_once(bundle: Bundle, memory: str, tmp_path: Path) -> None:
    uri = publish(bundle, memory)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_bundle(uri, bundle.digest, tmp_path / "cache"), range(16)))
    assert {one.path for one in opened} == {tmp_path / "cache" / bundle.digest}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [bundle.digest]


def test_golden_outputs_are_replayed(bundle: Bundle) -> None:
    model = OnnxModel(bundle.file("double.onnx"))
    assert replay(open_bundle(str(bundle.path)), {"double": model}, 1e-6) == 0.0


@pytest.mark.parametrize(
    ("golden", "named"),
    [
        ({"double": ({"x": X}, {"y": 2 * X + 0.01})}, "y differs from golden by 0.01"),
        ({"double": ({"x": X}, {"y": 2 * X * np.nan})}, "y differs from golden by nan"),
        ({"double": ({"x": X}, {"y": 2 * X[:, :2]})}, "y has shape"),
        ({"double": ({"x": X}, {"absent": X})}, "cannot be run"),
        ({"double": ({"w": X}, {"y": 2 * X})}, "cannot be run"),
        ({"double": ({"x": X.astype(np.int64)}, {"y": 2 * X})}, "cannot be run"),
        ({"other": ({"x": X}, {"y": 2 * X})}, "no golden inputs for graph 'double'"),
    ],
    ids=["value", "nan", "shape", "output", "input", "dtype", "graph"],
)
def test_a_bundle_that_fails_its_golden_replay_is_broken(tmp_path: Path, golden: Golden, named: str) -> None:
    bundle = sealed(tmp_path / "b", golden)
    with pytest.raises(BrokenBundle, match=named):
        replay(bundle, {"double": OnnxModel(bundle.file("double.onnx"))}, 1e-3)


def test_another_graph_under_the_same_seal_fails_the_replay(tmp_path: Path) -> None:
    bundle = sealed(tmp_path / "b")
    write_double(tmp_path / "wrong.onnx", factor=2.01)
    with pytest.raises(BrokenBundle, match="differs from golden"):
        replay(bundle, {"double": OnnxModel(tmp_path / "wrong.onnx")}, 1e-3)


def test_golden_never_unpickles(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    objects: Any = np.array([{"any": "object"}], dtype=object)
    np.savez(tmp_path / "b" / GOLDEN, **{"double/in/x": objects})
    with pytest.raises(BrokenBundle, match="cannot be read"):
        seal(tmp_path / "b", "ranker", {}).golden()
    with pytest.raises(ValueError, match="Object arrays"):
        write_golden(tmp_path, {"double": ({"x": objects}, {})})


@pytest.mark.parametrize("data", [b"", b"rubbish", b"PK\x03\x04" + bytes(40), b"\x93NUMPY\x01\x00"])
def test_a_golden_file_that_is_rubbish_is_a_broken_bundle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / GOLDEN).write_bytes(data)
    with pytest.raises(BrokenBundle, match="cannot be read"):
        seal(tmp_path / "b", "ranker", {}).golden()
