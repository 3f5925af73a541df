"""Pictures from bytes, files, parquet shards and tars."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InvalidInput, TooLarge
from contracts.images import MAX_IMAGE_BYTES
from tests.training.data.tables import items_columns, write
from training.data import picture_column
from training.data.dataset import load_dataset
from training.data.picture_column import PictureColumn, PictureSource
from training.data.pictures import Pictures


def pictures(directory: Path) -> Pictures:
    return load_dataset(directory).catalogue.pictures


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def test_none(tmp_path: Path) -> None:
    assert pictures(write(tmp_path)).read(0) is None


def test_a_column_without_a_value_is_none(tmp_path: Path) -> None:
    items = items_columns() | {"image": pa.nulls(6)}
    assert pictures(write(tmp_path, items)).read(0) is None


def test_files_by_relative_path(tmp_path: Path) -> None:
    (tmp_path / "posters").mkdir()
    (tmp_path / "posters" / "a.jpg").write_bytes(b"A")
    (tmp_path / "b.png").write_bytes(b"B")
    items = items_columns() | {"image": ["posters/a.jpg", None, "./b.png", "", "b.png", "posters/a.jpg"]}
    found = pictures(write(tmp_path, items))
    assert [found.read(row) for row in range(6)] == [b"A", None, b"B", None, b"B", b"A"]


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "/etc/hostname",
        "a/../../secret.jpg",
        "link.jpg",
        "folder/secret.jpg",
        "absent.jpg",
        ".",
    ],
)
def test_no_path_leaves_the_directory(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    data = tmp_path / "data"
    data.mkdir()
    (data / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (data / "folder").symlink_to(tmp_path)
    (data / "fine.jpg").write_bytes(b"fine")
    items = items_columns() | {"image": ["fine.jpg", "fine.jpg", path, None, None, None]}
    with pytest.raises(InvalidInput) as error:
        load_dataset(write(data, items))
    assert error.value.field == "items.parquet: column 'image', row 2"


def test_a_file_that_becomes_a_link_later_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jpg").write_bytes(b"fine")
    found = pictures(write(data, items_columns() | {"image": ["a.jpg"] * 6}))
    (data / "a.jpg").unlink()
    with pytest.raises(InvalidInput, match="cannot be read"):
        found.read(0)
    (data / "a.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(InvalidInput, match="leaves the data directory"):
        found.read(0)


def test_too_large_a_file(tmp_path: Path) -> None:
    with open(tmp_path / "big.jpg", "wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    found = pictures(write(tmp_path, items_columns() | {"image": ["big.jpg"] * 6}))
    with pytest.raises(TooLarge, match=r"column 'image', row 3"):
        found.read(3)


def test_members_of_a_tar_by_item_id(tmp_path: Path) -> None:
    items = items_columns() | {"item_id": ["i0", "i1", "deep/i2", "i3", "i4.v2", "i5"]}
    log = {
        "user_id": [0] * 60,
        "item_id": ["i0", "i1"] * 30,
        "timestamp": list(range(60)),
        "label": [0, 1] * 30,
    }
    write(tmp_path, items, log)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        add(tar, "images/i0.jpg", b"zero")
        add(tar, "./i1.PNG", b"one")
        add(tar, "images/deep/i2.jpeg", b"two")
        add(tar, "images/i3.txt", b"no picture")
        add(tar, "any/depth/at/all/i4.v2.webp", b"four")
        add(tar, "images/stranger.jpg", b"unknown item")
        link = tarfile.TarInfo("images/i5.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
        add(tar, "images/i0.jpg", b"zero again")
    found = pictures(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(found.read, range(6)))
    assert read == [b"zero again", b"one", b"two", None, b"four", None]


def test_two_members_for_one_item(tmp_path: Path) -> None:
    with tarfile.open(write(tmp_path) / "images.tar", "w") as tar:
        add(tar, "i0.jpg", b"a")
        add(tar, "i0.png", b"b")
    with pytest.raises(InvalidInput, match=r"images.tar: member: 'i0.jpg' is there too \(got 'i0.png'\)"):
        pictures(tmp_path).read(1)


def test_a_broken_tar(tmp_path: Path) -> None:
    (write(tmp_path) / "images.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(InvalidInput, match=r"images.tar: is not a readable, plain tar"):
        pictures(tmp_path).read(0)


def test_a_cut_tar(tmp_path: Path) -> None:
    path = write(tmp_path) / "images.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "i0.jpg", b"x" * 5_000)
    with open(path, "r+b") as file:
        file.truncate(2_000)
    with pytest.raises(InvalidInput, match=r"images.tar"):
        pictures(tmp_path).read(0)


def test_parquet_shards_by_item_id(tmp_path: Path) -> None:
    write(tmp_path)
    pq.write_table(pa.table({"item_id": ["i4", "x"], "jpeg": [b"4", b"?"]}), tmp_path / "images-0.parquet")
    pq.write_table(
        pa.table({"item_id": ["i1", "i0"], "image": [b"1", None], "thumb": [b"s", b"s"]}),
        tmp_path / "images-1.parquet",
    )
    found = pictures(tmp_path)
    assert [found.read(row) for row in range(6)] == [None, b"1", None, None, b"4", None]
    pq.write_table(pa.table({"item_id": ["i2", "i4"], "image": [b"2", b"4"]}), tmp_path / "images-2.parquet")
    with pytest.raises(
        InvalidInput, match=r"images-2.parquet: column 'item_id', row 1: has a picture already"
    ):
        load_dataset(tmp_path)


def test_a_column_keeps_few_row_groups_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_column, "CACHE_BYTES", 2_500)
    cells = [bytes([k]) * 100 for k in range(60)]
    path = tmp_path / "many.parquet"
    pq.write_table(pa.table({"image": cells}), path, row_group_size=7)
    found = PictureColumn((PictureSource(path, "image"),), np.arange(60))
    rows = np.random.default_rng(0).integers(60, size=300)
    assert [found.read(int(row)) for row in rows] == [cells[row] for row in rows]
    assert sum(group.nbytes for group in found._decoded.values()) <= 2_500
