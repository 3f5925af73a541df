"""Pictures: whatever the bytes, a finite tensor or a typed refusal, in bounded time and memory."""

from __future__ import annotations

import io
import multiprocessing
import resource
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from contracts.errors import InvalidInput, TooLarge, UnknownVersion
from contracts.images import MAX_IMAGE_PIXELS, ImagePreprocessing, decode_image, preprocessing_from_json
from tests.contracts import pictures

PLAIN = ImagePreprocessing(32, 48, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGENET = ImagePreprocessing(32, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SECONDS = 15.0  # each takes well under one; the limit leaves room for a busy machine

READABLE = pictures.readable()
REFUSED = pictures.refused()


@pytest.mark.parametrize("name", READABLE)
def test_odd_pictures_give_a_tensor(name: str) -> None:
    start = time.monotonic()
    values = decode_image(READABLE[name], PLAIN)
    assert time.monotonic() - start < SECONDS
    assert values.shape == (3, 32, 48)
    assert values.dtype == np.dtype(np.float32)
    assert values.flags.c_contiguous
    assert np.isfinite(values).all()
    assert 0 <= values.min() <= values.max() <= 1


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_bytes_are_refused_and_the_field_named(name: str) -> None:
    start = time.monotonic()
    with pytest.raises((InvalidInput, TooLarge), match=r"^items\[3\]\.image: "):
        decode_image(REFUSED[name], PLAIN, "items[3].image")
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize(
    "name",
    [
        "png_bomb_60000",
        "png_bomb_10000",
        "png_bomb_2g",
        "gif_screen_bomb",
        "bmp_bomb",
        "tiff_bomb",
        "tiff_200000_strips",
        "jpeg_scan_bomb",
        "tiff_jpeg_scan_bomb",
        "more_bytes_than_allowed",
    ],
)
def test_bombs_are_too_large_not_unreadable(name: str) -> None:
    with pytest.raises(TooLarge):
        decode_image(REFUSED[name], PLAIN)


@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg_progressive", "png", "gif", "webp", "bmp", "tiff_lzw", "tiff_jpeg"]
)
def test_every_truncation_gives_a_tensor_or_a_typed_refusal(name: str) -> None:
    data = READABLE[name]
    refusals = 0
    for size in sorted({*range(0, len(data), max(1, len(data) // 60)), len(data) - 1, len(data) - 2}):
        try:
            assert np.isfinite(decode_image(data[:size], PLAIN)).all()
        except (InvalidInput, TooLarge):
            refusals += 1
    assert refusals > 40


@given(st.sampled_from(sorted(READABLE)), st.data())
@settings(max_examples=150, deadline=None)
def test_flipped_bytes_give_a_tensor_or_a_typed_refusal(name: str, data: st.DataObject) -> None:
    picture = bytearray(READABLE[name][:20_000])
    head = data.draw(st.booleans())
    last = min(len(picture), 200) - 1 if head else len(picture) - 1
    for _ in range(data.draw(st.integers(1, 4))):
        picture[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    try:
        values = decode_image(bytes(picture), PLAIN)
    except (InvalidInput, TooLarge):
        return
    assert values.shape == (3, 32, 48)
    assert np.isfinite(values).all()


def test_colours_survive_every_lossless_format() -> None:
    expected = decode_image(READABLE["png"], PLAIN)
    for name in ("bmp", "tiff", "tiff_lzw", "apng", "tiff_multi_page"):
        np.testing.assert_array_equal(decode_image(READABLE[name], PLAIN), expected, err_msg=name)
    for name in ("jpeg", "mpo", "jpeg_progressive", "webp", "webp_animated"):
        assert np.abs(decode_image(READABLE[name], PLAIN) - expected).mean() < 0.1, name


def test_normalisation_is_per_channel() -> None:
    data = pictures.saved(Image.new("RGB", (7, 5), (255, 0, 51)), "PNG")
    values = decode_image(data, IMAGENET)
    for channel, level in enumerate((1.0, 0.0, 0.2)):
        expected = (level - IMAGENET.mean[channel]) / IMAGENET.std[channel]
        np.testing.assert_allclose(values[channel], expected, rtol=1e-6)


def test_transparency_lies_over_white() -> None:
    clear = pictures.saved(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "PNG")
    half = pictures.saved(Image.new("RGBA", (9, 9), (255, 0, 0, 128)), "PNG")
    np.testing.assert_array_equal(pictures.pixels(decode_image(clear, PLAIN)), 255)
    np.testing.assert_allclose(
        pictures.pixels(decode_image(half, PLAIN)),
        np.broadcast_to([255, 127, 127], (32, 48, 3)),
        atol=1.5,
    )


def test_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "lime", "blue")]
    data = pictures.saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(pictures.pixels(decode_image(data, PLAIN))[0, 0], [255, 0, 0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = (
        {"exif": exif.tobytes()} if kind != "TIFF" else {"tiffinfo": {0x0112: orientation}}
    )
    data = pictures.saved(pictures.photo(96, 64), kind, **options)
    rgb = np.asarray(pictures.photo(96, 64))
    upright = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.transpose(1, 0, 2),
        6: rgb[::-1].transpose(1, 0, 2),
        7: rgb[::-1, ::-1].transpose(1, 0, 2),
        8: rgb.transpose(1, 0, 2)[::-1],
    }[orientation]
    expected = decode_image(pictures.saved(Image.fromarray(np.ascontiguousarray(upright)), "PNG"), PLAIN)
    difference = np.abs(decode_image(data, PLAIN) - expected)[:2]  # blue is noise, which lossy formats blur
    assert difference.mean() < 0.02
    assert difference.max() < 0.25


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        ("jpeg_broken_exif", "jpeg"),
        ("jpeg_truncated_exif", "jpeg"),
        ("jpeg_orientation_text", "jpeg"),
        ("jpeg_orientation_99", "jpeg"),
    ],
)
def test_broken_exif_does_not_cost_the_picture(name: str, same_as: str) -> None:
    np.testing.assert_array_equal(decode_image(READABLE[name], PLAIN), decode_image(READABLE[same_as], PLAIN))


def test_sixteen_bits_are_scaled_by_their_range_whatever_they_hold() -> None:
    dark = np.full((8, 8), 200, np.uint16)
    for kind in ("PNG", "TIFF"):
        values = decode_image(pictures.saved(Image.fromarray(dark), kind), PLAIN)
        np.testing.assert_array_equal(values, 0)
    grey = decode_image(READABLE["png_grey_16"], PLAIN)
    expected = decode_image(pictures.saved(pictures.photo().convert("L"), "PNG"), PLAIN)
    np.testing.assert_allclose(grey, expected, atol=1.5 / 255)


def test_holes_in_a_float_picture_stay_local() -> None:
    values = decode_image(READABLE["tiff_float_nan"], PLAIN)
    assert (np.abs(values - decode_image(READABLE["tiff_float"], PLAIN)) > 0.01).mean() < 0.05


@pytest.mark.parametrize("name", ["jpeg", "png", "tiff_lzw"])
def test_decoding_is_deterministic_and_leaves_pillow_as_it_was(name: str) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    np.testing.assert_array_equal(decode_image(READABLE[name], PLAIN), decode_image(READABLE[name], PLAIN))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def decode_and_weigh(data: bytes, answer: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    shape = decode_image(data, PLAIN).shape
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    answer.put((shape, time.monotonic() - start, grown / 1024))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize(
    ("side", "depth", "colour"),
    [(6_300, 8, 6), (6_300, 16, 0), (6_300, 16, 6)],
    ids=["rgba", "grey16", "rgba16"],
)
def test_the_largest_picture_below_the_cap_stays_within_640_mib(side: int, depth: int, colour: int) -> None:
    data = pictures.flat_png(side, side, depth=depth, colour=colour)
    assert 0.99 < side * side / MAX_IMAGE_PIXELS < 1
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=decode_and_weigh, args=(data, answer))
    process.start()
    shape, seconds, mebibytes = answer.get(timeout=60)
    process.join(10)
    assert shape == (3, 32, 48)
    assert seconds < SECONDS
    assert mebibytes < 640


def test_preprocessing_round_trips() -> None:
    assert preprocessing_from_json(IMAGENET.to_json()) == IMAGENET


@pytest.mark.parametrize("version", [0, 2])
def test_unknown_preprocessing_version_is_refused(version: int) -> None:
    with pytest.raises(UnknownVersion, match="image preprocessing"):
        preprocessing_from_json({**IMAGENET.to_json(), "version": version})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("height", 0),
        ("width", -1),
        ("width", 100_000),
        ("mean", (0.1, 0.2)),
        ("mean", (0.1, 0.2, float("nan"))),
        ("std", (0.1, 0.2, 0.0)),
        ("std", (0.1, 0.2, float("inf"))),
        ("std", (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_impossible_preprocessing_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^image\."):
        preprocessing_from_json({**IMAGENET.to_json(), name: value})


def test_the_odd_set_covers_the_modes() -> None:
    assert len(READABLE) + len(REFUSED) > 80
    broken = {name for name in READABLE if "exif" in name or "orientation" in name}  # Pillow warns of them
    modes = {Image.open(io.BytesIO(READABLE[name])).mode for name in READABLE.keys() - broken}
    assert modes >= {"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB"}
