"""Hostile and odd pictures, all made here: name -> bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pictures = dict[str, bytes]


def photo(width: int = 96, height: int = 64) -> Image.Image:
    """A colourful RGB picture: red grows to the right, green downwards, noise in blue."""
    rng = np.random.default_rng(0)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None, :]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    pixels[..., 2] = rng.integers(0, 256, (height, width))
    return Image.fromarray(pixels)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, idat: bytes = b"", extra: bytes = b""
) -> bytes:
    """A PNG by hand; colour 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA; idat: uncompressed rows."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(idat, 1))
    return b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b"")


def flat_png(width: int, height: int, *, depth: int = 8, colour: int = 2) -> bytes:
    """A valid PNG of any size in a few hundred kilobytes."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    rows = np.full((height, 1 + width * samples * depth // 8), 127, np.uint8)
    rows[:, 0] = 0
    return png(width, height, depth=depth, colour=colour, idat=rows.tobytes())


def tiff_of_strips(count: int) -> bytes:
    """A TIFF whose every row is a strip of its own; all strips are the same byte."""
    offsets, counts = 134, 134 + 4 * count
    entries = [(256, 1, 1), (257, 1, count), (258, 1, 8), (259, 1, 1), (262, 1, 1)]
    entries += [(273, count, offsets), (277, 1, 1), (278, 1, 1), (279, count, counts)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, n, value) for tag, n, value in entries)
    body = (directory + bytes(4)).ljust(offsets - 8, b"\0")
    pixel = np.full(count, counts + 4 * count, "<u4").tobytes() + np.ones(count, "<u4").tobytes()
    return b"II*\0" + struct.pack("<I", 8) + body + pixel + b"\x80" * 4


def jpeg_of_scans(count: int, side: int = 512) -> bytes:
    """A progressive JPEG that asks for its last scan again and again."""
    whole = saved(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + b"\xff\xd9"


def with_exif(exif: bytes) -> bytes:
    return saved(photo(), "JPEG", exif=exif)


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(photo(), kind, exif=exif.tobytes())


def readable() -> Pictures:
    """Odd, but pictures: each must give a tensor."""
    rgb = photo()
    rgba = rgb.copy()
    rgba.putalpha(Image.linear_gradient("L").resize(rgb.size))
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    wide = np.asarray(rgb.convert("L"), np.uint16) * 257
    ramp = np.linspace(-3, 7, 64 * 96, dtype=np.float32).reshape(64, 96)
    hole = ramp.copy()
    hole[3, 4], hole[5, 6] = np.nan, np.inf
    frames = [Image.new("P", (20, 20), n) for n in range(5)]
    transparent = saved(palette, "PNG", transparency=bytes(range(256)))
    return {
        "jpeg": saved(rgb, "JPEG"),
        "jpeg_1x1": saved(Image.new("RGB", (1, 1), "red"), "JPEG"),
        "jpeg_grey": saved(rgb.convert("L"), "JPEG"),
        "jpeg_cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "jpeg_progressive": saved(rgb, "JPEG", progressive=True),
        "jpeg_65500_wide": saved(Image.new("RGB", (65_500, 2), "blue"), "JPEG"),
        "jpeg_trailing_rubbish": saved(rgb, "JPEG") + b"\xff\xda" * 50 + b"rubbish",
        "jpeg_broken_exif": with_exif(b"Exif\0\0rubbish"),
        "jpeg_truncated_exif": with_exif(b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"),
        "jpeg_orientation_text": with_exif(
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"
        ),
        "jpeg_orientation_99": turned(99),
        "mpo": saved(rgb, "MPO", save_all=True, append_images=[rgb.rotate(90)]),
        "png": saved(rgb, "PNG"),
        "png_1x1": saved(Image.new("1", (1, 1)), "PNG"),
        "png_rgba": saved(rgba, "PNG"),
        "png_la": saved(rgba.convert("LA"), "PNG"),
        "png_palette": saved(palette, "PNG"),
        "png_palette_transparent": transparent,
        "png_bilevel_transparent": saved(rgb.convert("1"), "PNG", transparency=0),
        "png_rgb_transparent": saved(rgb, "PNG", transparency=(0, 0, 0)),
        "png_grey_16": saved(Image.fromarray(wide), "PNG"),
        "png_grey_16_transparent": png(
            4, 4, depth=16, colour=0, idat=(b"\0" + b"\x12\x34" * 4) * 4, extra=chunk(b"tRNS", b"\x12\x34")
        ),
        "png_rgb_16": flat_png(16, 16, depth=16),
        "png_rgba_16": flat_png(16, 16, depth=16, colour=6),
        "png_turned": turned(6, "PNG"),
        "apng": saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(180)]),
        "png_1000000_wide": flat_png(1_000_000, 1),
        "png_200000_high": flat_png(1, 200_000),
        "gif": saved(rgb, "GIF"),
        "gif_animated": saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=10),
        "gif_transparent": saved(palette, "GIF", transparency=3),
        "webp": saved(rgb, "WEBP"),
        "webp_rgba": saved(rgba, "WEBP", lossless=True),
        "webp_animated": saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        "bmp": saved(rgb, "BMP"),
        "bmp_palette": saved(palette, "BMP"),
        "bmp_bilevel": saved(rgb.convert("1"), "BMP"),
        "tiff": saved(rgb, "TIFF"),
        "tiff_lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff_jpeg": saved(rgb, "TIFF", compression="jpeg"),
        "tiff_cmyk": saved(rgb.convert("CMYK"), "TIFF"),
        "tiff_grey_16": saved(Image.fromarray(wide), "TIFF"),
        "tiff_lab": saved(Image.new("LAB", (8, 8)), "TIFF"),
        "tiff_int32": saved(Image.fromarray(wide.astype(np.int32) * 1000 - 5), "TIFF"),
        "tiff_float": saved(Image.fromarray(ramp), "TIFF"),
        "tiff_float_nan": saved(Image.fromarray(hole), "TIFF"),
        "tiff_float_constant": saved(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"),
        "tiff_turned": saved(rgb, "TIFF", tiffinfo={0x0112: 6}),
        "tiff_multi_page": saved(rgb, "TIFF", save_all=True, append_images=[rgb.convert("L")]),
        "tiff_5000_strips": tiff_of_strips(5_000),
    }


def refused() -> Pictures:
    """No pictures, or too much of one: each must be refused by InvalidInput or TooLarge."""
    jpeg, ping = saved(photo(), "JPEG"), saved(photo(), "PNG")
    corrupted = bytearray(ping)
    corrupted[len(ping) // 2 : len(ping) // 2 + 40] = bytes(40)
    return {
        "empty": b"",
        "one_zero": b"\0",
        "zeros": bytes(100_000),
        "text": b"not a picture at all" * 10,
        "html": b"<!doctype html><title>404</title>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"><rect/></svg>',
        "svg_entity_bomb": b'<!DOCTYPE s [<!ENTITY a "aaaaaaaaaa">]><svg>&a;</svg>',
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "zip": b"PK\x03\x04" + bytes(60),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "ico": b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0" + bytes(40),
        "ppm_of_another_format": b"P6\n1 1\n255\n\xff\xff\xff",
        "jpeg_start_alone": b"\xff\xd8",
        "jpeg_no_scan": jpeg[: jpeg.index(b"\xff\xda")],
        "png_signature_alone": ping[:8],
        "png_header_alone": ping[:33],
        "png_corrupted_zlib": bytes(corrupted),
        "png_zlib_rubbish": png(64, 64).replace(zlib.compress(b"", 1), b"\x78\x01\xff\xff\xff\xff\xff\xff"),
        "png_no_rows": png(64, 64),
        "png_zero_wide": png(0, 10),
        "png_bomb_60000": png(60_000, 60_000, idat=bytes(1_000)),
        "png_bomb_10000": png(10_000, 10_000, idat=bytes(1_000)),
        "png_bomb_2g": png(2**31 - 1, 2**31 - 1, idat=bytes(10)),
        "png_unknown_colour": png(4, 4, colour=5),
        "png_text_bomb": png(4, 4, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "png_icc_bomb": png(4, 4, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "gif_header_alone": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(3),
        "gif_screen_bomb": b"GIF89a"
        + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0)
        + b"\x08\x02\x00\x01\x00;",
        "bmp_bomb": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 40_000, 40_000, 1, 24, *[0] * 6),
        "bmp_negative": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -5, -5, 1, 24, *[0] * 6),
        "tiff_header_alone": b"II*\0\x08\0\0\0",
        "tiff_directory_loop": b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 256, 4, 1, 1, 8),
        "tiff_offset_beyond_the_end": b"II*\0\xff\xff\xff\x7f",
        "tiff_bomb": saved(photo(), "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, 96), struct.pack("<HHII", 256, 4, 1, 10**9)
        ),
        "tiff_200000_strips": tiff_of_strips(200_000),
        "webp_header_alone": b"RIFF\x1a\0\0\0WEBPVP8 " + bytes(10),
        "webp_truncated": saved(photo(), "WEBP")[:100],
        "jpeg_scan_bomb": jpeg_of_scans(3_000),
        "tiff_jpeg_scan_bomb": saved(photo(), "TIFF", compression="jpeg") + b"\xff\xda\0\0" * 3_000,
        "more_bytes_than_allowed": jpeg + bytes(16 * 2**20),
    }


def pixels(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """A decoded tensor (3, H, W) with mean 0 and std 1 back to 0..255 (H, W, 3)."""
    return values.transpose(1, 2, 0).astype(np.float64) * 255
