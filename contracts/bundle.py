"""Seal, open and publish bundles. A bundle is never changed: opening checks every digest.

golden.npz holds, per graph of the bundle, inputs `<graph>/in/<name>` and outputs `<graph>/out/<name>`;
whoever opens the bundle replays them before serving (contracts.onnx_model.replay).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from contracts.errors import BrokenBundle, InvalidInput, NotFound
from contracts.manifest import BundleKind, BundleManifest, SealedFile, parse_bundle_manifest

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
_CHUNK_BYTES = 1 << 20

Arrays = Mapping[str, npt.NDArray[Any]]
Golden = Mapping[str, tuple[Arrays, Arrays]]  # graph -> (inputs, outputs)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: `path` is local, every file's digest was checked."""

    path: Path
    manifest: BundleManifest

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def file(self, name: str) -> Path:
        if name not in self.manifest.files:
            raise BrokenBundle(f"bundle {self.digest[:12]} has no file {name!r}")
        return self.path / name

    def golden(self) -> dict[str, tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]]:
        """graph -> (inputs, outputs); BrokenBundle where the file does not hold plain named arrays."""
        out: dict[str, tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]] = {}
        try:
            with (
                self.file(GOLDEN).open("rb") as stream,
                np.load(stream, allow_pickle=False) as arrays,
            ):
                for key in arrays.files:
                    graph, side, name = key.split("/", 2)
                    pair = out.setdefault(graph, ({}, {}))
                    pair[0 if side == "in" else 1][name] = arrays[key]
        except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise BrokenBundle(f"bundle {self.digest[:12]}: {GOLDEN} cannot be read: {error}") from error
        return out


def write_golden(directory: Path, golden: Golden) -> None:
    """Write golden.npz into a bundle directory that is about to be sealed."""
    arrays = {
        f"{graph}/{side}/{name}": array
        for graph, (inputs, outputs) in golden.items()
        for side, named in (("in", inputs), ("out", outputs))
        for name, array in named.items()
    }
    np.savez(directory / GOLDEN, allow_pickle=False, **arrays)


def seal(directory: Path, kind: BundleKind, content: Mapping[str, Any]) -> Bundle:
    """Write manifest.json over every file in `directory` (which must hold none yet)."""
    if (directory / MANIFEST).exists():
        raise InvalidInput("directory", str(directory), "is sealed already")
    files = {
        path.relative_to(directory).as_posix(): SealedFile(sha256_of(path), path.stat().st_size)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    if GOLDEN not in files:
        raise InvalidInput("directory", str(directory), f"has no {GOLDEN}: a bundle carries its own proof")
    manifest = BundleManifest(kind, time.time_ns() // 1_000_000, files, content)
    (directory / MANIFEST).write_bytes(manifest.to_bytes())
    return Bundle(directory, manifest)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def publish(bundle: Bundle, root: str) -> str:
    """Copy a sealed bundle to `root`/<kind>-<digest12> (a directory or an object store) and give its URI.

    The manifest is written last, so a half-copied bundle is never one. Publishing twice is harmless.
    """
    filesystem, base = _filesystem(root)
    name = f"{bundle.manifest.kind}-{bundle.digest[:12]}"
    target = f"{base.rstrip('/')}/{name}"
    if not filesystem.exists(f"{target}/{MANIFEST}"):
        for relative in bundle.manifest.files:
            filesystem.makedirs(str(PurePosixPath(f"{target}/{relative}").parent), exist_ok=True)
            filesystem.put_file(str(bundle.path / relative), f"{target}/{relative}")
        part = f"{target}/{MANIFEST}.part"  # a kill in mid-write must not leave half a manifest
        filesystem.pipe_file(part, bundle.manifest.to_bytes())
        filesystem.mv(part, f"{target}/{MANIFEST}")
    return str(filesystem.unstrip_protocol(target))


def open_bundle(uri: str, digest: str | None = None, cache: Path | None = None) -> Bundle:
    """A bundle from a directory or URI, every digest checked.

    A remote bundle is copied once into `cache` (default: a folder of the system's temporary one).
    Raises NotFound, BrokenBundle, UnknownVersion, or InvalidInput for a URI that cannot be used.
    """
    filesystem, path = _filesystem(uri)
    try:
        data = filesystem.cat_file(f"{path}/{MANIFEST}")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("bundle", uri) from error
    try:
        manifest = parse_bundle_manifest(data)
    except InvalidInput as error:
        raise BrokenBundle(f"bundle {uri}: {error}") from error
    if digest is not None and manifest.digest != digest:
        raise BrokenBundle(f"bundle {uri}: digest is {manifest.digest[:12]}, expected {digest[:12]}")
    for name in manifest.files:
        if not _stays_inside(name):
            raise BrokenBundle(f"bundle {uri}: file name {name!r} leaves the bundle")
    local = Path(path)
    if "file" not in filesystem.protocol:
        local = (cache or Path(tempfile.gettempdir()) / "repcenter-bundles") / manifest.digest
        if not (local / MANIFEST).exists():
            local.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(local.parent):
                if not (local / MANIFEST).exists():
                    _download(filesystem, path, manifest, local, uri)
    _check_files(local, manifest, uri)
    return Bundle(local, manifest)


def _check_files(local: Path, manifest: BundleManifest, uri: str) -> None:
    for name, sealed in manifest.files.items():
        file = local / name
        if not file.is_file():
            raise BrokenBundle(f"bundle {uri}: file {name!r} is missing")
        if file.stat().st_size != sealed.size or sha256_of(file) != sealed.sha256:
            raise BrokenBundle(f"bundle {uri}: file {name!r} does not match its sha256")


def _filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URI and the path in it."""
    if "\0" in uri:
        raise InvalidInput("uri", uri, "holds a NUL")
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError, TypeError, AttributeError) as error:
        raise InvalidInput("uri", uri, f"cannot be opened: {error}") from error
    return filesystem, str(path)


def _stays_inside(name: str) -> bool:
    """A plain relative POSIX path of a file that is not the manifest itself."""
    path = PurePosixPath(name)
    plain = path.as_posix() == name and not path.is_absolute() and ".." not in path.parts
    return plain and name not in (".", MANIFEST) and "\0" not in name and "\\" not in name


@contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Among the threads and processes that share a cache: a bundle is fetched once, not by each of them."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _download(filesystem: Any, path: str, manifest: BundleManifest, local: Path, uri: str) -> None:
    """Copy and check: what was cut short on its way is not kept."""
    part = Path(tempfile.mkdtemp(dir=local.parent))
    try:
        for name in manifest.files:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                filesystem.get_file(f"{path}/{name}", str(part / name))
            except FileNotFoundError as error:
                raise BrokenBundle(f"bundle {uri}: file {name!r} is missing") from error
        _check_files(part, manifest, uri)
        (part / MANIFEST).write_bytes(manifest.to_bytes())
        os.replace(part, local)
    finally:
        shutil.rmtree(part, ignore_errors=True)
