"""Hostile and odd pictures, texts and ids, each with the one outcome that it must have.

Pictures go through a decoder of their own process, as in a worker; texts and ids through the encoder and the
door's body.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import numpy.typing as npt
import orjson
import pytest
import pytest_asyncio
from PIL import Image

from contracts.errors import InvalidInput, RepcenterError, TooLarge
from contracts.images import Pixels
from contracts.items import Item, check_item
from realtime_infer.decode_pool import DecodePool
from realtime_infer.encoder import Encoder
from realtime_infer.item_body import ItemBody
from tests.contracts import hostile, pictures

SIZE = HEIGHT, WIDTH = 32, 48
READABLE, REFUSED = pictures.readable(), pictures.refused()
UNREADABLE = "is not a readable picture"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def decoders() -> AsyncIterator[DecodePool]:
    async with DecodePool(1) as pool:
        yield pool


def small(picture: Image.Image) -> Pixels:
    rgb = picture.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("RGB")
    return np.asarray(rgb)


def over_white(picture: Image.Image) -> Pixels:
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return small(Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB"))


def flat(*colour: int) -> npt.NDArray[np.float64]:
    return np.broadcast_to(
        np.array(colour * 3 if len(colour) == 1 else colour, np.float64), (HEIGHT, WIDTH, 3)
    )


RGB = pictures.photo()
RGBA = RGB.copy()
RGBA.putalpha(Image.linear_gradient("L").resize(RGB.size))
PALETTE = RGB.convert("P", palette=Image.Palette.ADAPTIVE)
GREY = RGB.convert("L")
ALPHAS = PALETTE.convert("RGBA")
ALPHAS.putalpha(Image.fromarray(np.asarray(PALETTE, np.uint8)))  # the alpha of index n is n
STRETCHED = small(GREY) * (255 / small(GREY).max())  # its white is the largest value
RAMP = Image.fromarray(np.linspace(0, 10, 64 * 96).reshape(64, 96).astype(np.uint8))

# name: what it must look like (height, width, 3), and how far the mean of all values may be from that
EXPECTED: dict[str, tuple[npt.NDArray[np.generic], float]] = {
    **dict.fromkeys(("png", "png_rgb_transparent", "apng", "bmp", "tiff", "tiff_lzw"), (small(RGB), 0.0)),
    **dict.fromkeys(("tiff_multi_page", "tiff_cmyk"), (small(RGB), 0.0)),
    **dict.fromkeys(("jpeg", "jpeg_progressive", "jpeg_cmyk", "mpo", "tiff_jpeg"), (small(RGB), 14.0)),
    **dict.fromkeys(("jpeg_trailing_rubbish", "jpeg_broken_exif", "jpeg_truncated_exif"), (small(RGB), 14.0)),
    **dict.fromkeys(("jpeg_orientation_text", "jpeg_orientation_99"), (small(RGB), 14.0)),
    **dict.fromkeys(("webp", "webp_animated"), (small(RGB), 14.0)),
    **dict.fromkeys(("gif", "gif_transparent"), (small(RGB), 14.0)),
    **dict.fromkeys(("png_palette", "bmp_palette"), (small(PALETTE.convert("RGB")), 0.0)),
    **dict.fromkeys(("png_rgba", "webp_rgba"), (over_white(RGBA), 2.0)),
    "png_la": (over_white(RGBA.convert("LA")), 2.0),
    "png_palette_transparent": (over_white(ALPHAS), 2.0),
    "png_bilevel_transparent": (flat(255), 0.0),
    "bmp_bilevel": (small(RGB.convert("1").convert("RGB")), 0.0),
    **dict.fromkeys(("jpeg_grey", "png_grey_16", "tiff_grey_16"), (small(GREY), 2.0)),
    "tiff_int32": (STRETCHED, 2.0),
    **dict.fromkeys(("tiff_float", "tiff_float_nan"), (small(RAMP), 2.0)),
    "tiff_float_constant": (flat(0), 0.0),
    **dict.fromkeys(("png_turned", "tiff_turned"), (small(RGB.transpose(Image.Transpose.ROTATE_270)), 0.0)),
    **dict.fromkeys(("png_rgb_16", "png_1000000_wide", "png_200000_high"), (flat(127), 0.0)),
    "png_rgba_16": (flat(191), 0.0),
    "png_grey_16_transparent": (flat(18), 0.0),
    "tiff_5000_strips": (flat(128), 0.0),
    "tiff_lab": (flat(0, 59, 195), 0.0),
    **dict.fromkeys(("png_1x1", "gif_animated"), (flat(0), 0.0)),
    "jpeg_1x1": (flat(254, 0, 0), 0.0),
    "jpeg_65500_wide": (flat(0, 0, 254), 0.0),
}

# name: the whole reason, or how it begins; all others are UNREADABLE
REASONS = {
    "empty": "image: is empty",
    "png_bomb_60000": "image: 178956970 pixels or more exceed the limit of 40000000",
    "png_bomb_10000": "image: 100000000 pixels exceed the limit of 40000000",
    "png_bomb_2g": "image: 178956970 pixels or more exceed the limit of 40000000",
    "gif_screen_bomb": "image: 178956970 pixels or more exceed the limit of 40000000",
    "bmp_bomb": "image: 178956970 pixels or more exceed the limit of 40000000",
    "bmp_negative": "image: 178956970 pixels or more exceed the limit of 40000000",
    "tiff_bomb": "image: 178956970 pixels or more exceed the limit of 40000000",
    "tiff_200000_strips": "image: 200000 strips exceed the limit of 100000",
    "jpeg_scan_bomb": "image: 3006 scans exceed the limit of 100",
    "tiff_jpeg_scan_bomb": "image: 3001 scans exceed the limit of 100",
    "more_bytes_than_allowed": "image: 16779326 bytes exceed the limit of 16777216",
}


def test_every_picture_of_the_sets_has_an_outcome() -> None:
    assert EXPECTED.keys() == READABLE.keys()
    assert REASONS.keys() < REFUSED.keys()
    assert len(READABLE) + len(REFUSED) + len(TEXTS) + len(IDS) >= 120


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", READABLE)
async def test_an_odd_picture_looks_as_it_should(decoders: DecodePool, name: str) -> None:
    expected, tolerance = EXPECTED[name]
    pixels = await decoders.decode(READABLE[name], SIZE)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.dtype(np.uint8)
    assert np.abs(pixels.astype(np.float64) - expected.astype(np.float64)).mean() <= tolerance


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", REFUSED)
async def test_a_hostile_picture_is_refused_for_its_reason(decoders: DecodePool, name: str) -> None:
    with pytest.raises((InvalidInput, TooLarge)) as refused:
        await decoders.decode(REFUSED[name], SIZE)
    assert str(refused.value).startswith(REASONS.get(name, f"image: {UNREADABLE} ("))
    assert refused.value.code == ("too_large" if "exceed" in str(refused.value) else "invalid")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    "name", ["jpeg", "jpeg_progressive", "png", "gif", "webp", "bmp", "tiff_lzw", "tiff_jpeg"]
)
async def test_a_truncated_picture_is_refused(decoders: DecodePool, name: str, share: float) -> None:
    whole = READABLE[name]
    with pytest.raises(InvalidInput, match=f"^image: {UNREADABLE}"):
        await decoders.decode(whole[: int(len(whole) * share)], SIZE)


# text: the field that is refused, or "" where it is encoded
TEXTS: dict[str, tuple[str, str]] = {
    "zeros": ("\0" * 100, ""),
    "newlines": ("\r\n\t Heat \x0b\x0c", ""),
    "right to left override": ("\u202e\u2066Heat\u2069", ""),
    "byte order marks": ("\ufeff\ufffe\uffff Heat", ""),
    "letters of four bytes": ("𝕳𝖊𝖆𝖙 🎬👨‍👩‍👧‍👦🏳️‍🌈", ""),
    "combining marks": ("Z" + "\u0301" * 10_000, ""),
    "one word of 20,000 letters": ("x" * 20_000, ""),
    "20,000 letters of four bytes": ("🎬" * 20_000, ""),
    "braces and quotes": ('{"$ne": null} {{7*7}} ${jndi:ldap://x} %s %n', ""),
    "markup": ("<script>alert(1)</script><!--", ""),
    "special tokens": ("[CLS] [SEP] [PAD] <s> </s> <|endoftext|>", ""),
    "private use": ("\ue000\U0010ffff", ""),
    "separators of the template": ("a | b || c. genres: x", ""),
    "blank": (" \t\n", "item"),
    "blanks of Unicode": ("\u2003\u00a0\u3000", "item"),
    "empty": ("", "item"),
    "half a surrogate pair": ("\ud83c", "text.title"),
    "the other half first": ("\udfac\ud83c", "text.title"),
    "one letter too long": ("x" * 20_001, "text.title"),
    "a megabyte": ("x" * 2**20, "text.title"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_hostile_text_is_encoded_or_refused_alone(encoder: Encoder, name: str) -> None:
    text, field = TEXTS[name]
    neighbour = Item("good", {"title": "Heat"})
    encoded = encoder.encode([neighbour, Item("odd", {"title": text}), neighbour])
    assert encoded.good.tolist() == ([0, 2] if field else [0, 1, 2])
    alone = encoder.encode([neighbour])
    for block, expected in zip(encoded.vectors, alone.vectors, strict=True):
        np.testing.assert_allclose(block[[0, 2]], expected[[0, 0]], atol=1e-5)
    if field:
        error = encoded.failures[1]
        assert isinstance(error, InvalidInput | TooLarge)
        assert error.field == field
    else:
        assert float(np.linalg.norm(encoded.vectors[0][1])) == pytest.approx(1, abs=1e-4)


IDS: list[tuple[object, bool]] = [
    *((item_id, True) for item_id in hostile.ODD_IDS),
    *((item_id, False) for item_id in hostile.BAD_IDS),
]


@pytest.mark.parametrize("position", range(len(IDS)))
def test_a_hostile_id_is_kept_as_it_is_or_refused(position: int) -> None:
    item_id, usable = IDS[position]
    item = Item(item_id, {"title": "Heat"})  # type: ignore[arg-type]
    if usable:
        assert check_item(item).item_id == item_id
        body = ItemBody.model_validate_json(orjson.dumps({"item_id": item_id, "title": "Heat"}))
        assert check_item(body.item()).item_id == item_id
        return
    with pytest.raises((InvalidInput, TooLarge)) as refused:
        check_item(item)
    assert str(refused.value).startswith("item_id: ")


@pytest.mark.asyncio(loop_scope="module")
async def test_one_batch_of_everything_harms_no_neighbour(decoders: DecodePool, encoder: Encoder) -> None:
    good = Item("good", {"title": "Heat"}, image=READABLE["png"])
    items = [good]
    for data in REFUSED.values():
        items += [Item("poison", {"title": "fine"}, image=data), good]
    found = await decoders.pictures(items, encoder.picture_size)
    encoded = encoder.run(encoder.prepare(items, found))
    assert encoded.good.tolist() == list(range(0, len(items), 2))
    assert all(isinstance(error, RepcenterError) for error in encoded.failures.values())
    alone = encoder.encode([good])
    for block, expected in zip(encoded.vectors, alone.vectors, strict=True):
        np.testing.assert_allclose(block[0::2], np.repeat(expected, len(items) // 2 + 1, axis=0), atol=1e-5)
