"""The drawn world's pictures: a patterned shape in the item's colour before its category's backdrop.

Place, size, turn, light and grain vary from picture to picture, so the traits have to be recognised.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from training.data.progress import Progress, silent
from training.data.world_items import WorldItems

SIDE = 64  # pixels
_BATCH = 128
_QUALITY = 88
_Pixels = npt.NDArray[np.floating]

_PAINT = np.array(  # RGB of world_items.COLOURS
    [
        (208, 44, 44),
        (238, 132, 32),
        (236, 208, 52),
        (58, 158, 66),
        (36, 168, 168),
        (44, 84, 206),
        (138, 60, 178),
        (120, 76, 44),
    ],
    dtype=np.float32,
)
_BACKDROP = np.array(  # RGB of world_items.CATEGORIES
    [
        (250, 246, 226),
        (226, 214, 198),
        (204, 214, 228),
        (244, 244, 246),
        (240, 220, 228),
        (198, 200, 204),
        (210, 232, 206),
        (216, 226, 244),
    ],
    dtype=np.float32,
)


def draw_pictures(items: WorldItems, rng: np.random.Generator, progress: Progress = silent) -> list[bytes]:
    """(I,) JPEG files of SIDE x SIDE pixels."""
    out: list[bytes] = []
    for start in range(0, len(items), _BATCH):
        rows = np.arange(start, min(start + _BATCH, len(items)))
        out += [_jpeg(pixels) for pixels in _draw(items, rows, rng)]
        progress(len(out), len(items))
    return out


def _jpeg(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _draw(items: WorldItems, rows: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(K, SIDE, SIDE, 3) uint8."""
    count = len(rows)

    def vary(low: float, high: float, *shape: int) -> _Pixels:
        return rng.uniform(low, high, (count, *(shape or (1, 1)))).astype(np.float32)

    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE - 0.5
    turn, size = vary(0, 2 * np.pi), vary(0.26, 0.4)
    x, y = axis[None, None, :] - vary(-0.1, 0.1), axis[None, :, None] - vary(-0.1, 0.1)
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    inside = np.clip(0.5 - _distance(items.shape[rows], u / size, v / size) * size * SIDE, 0, 1)
    tone = 1.0 - 0.55 * _pattern(items.pattern[rows], u, v, vary(0.09, 0.12))

    paint = _PAINT[items.colour[rows]][:, None, None, :] * vary(0.85, 1.1)[..., None]
    slope = 1 - 0.25 * (axis[None, :, None] + 0.5) * vary(0, 1)
    backdrop = _BACKDROP[items.category[rows]][:, None, None, :] * slope[..., None]
    shadow = 0.35 * np.clip(0.5 - (np.hypot(x - 0.03, y - 0.05) - size) * 12, 0, 1)
    scene = backdrop * (1 - shadow * (1 - inside))[..., None]
    scene = scene + (paint * tone[..., None] - scene) * inside[..., None]
    grain = rng.normal(0, 4, scene.shape).astype(np.float32) + vary(-8, 8, 1, 1, 3)
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(scene + grain), 0, 255).astype(np.uint8)
    return pixels


def _distance(shapes: npt.NDArray[np.int64], u: _Pixels, v: _Pixels) -> _Pixels:
    """(K, SIDE, SIDE): distance to the outline of each picture's shape (unit size), negative inside."""
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    outlines = (
        radius - 0.9,  # disc
        np.maximum(np.abs(u), np.abs(v)) - 0.8,  # square
        np.maximum(np.abs(u) * 0.866 + v * 0.5, -v) - 0.5,  # triangle
        radius - (0.72 + 0.3 * np.cos(5 * angle)),  # star
        np.abs(radius - 0.72) - 0.24,  # ring
        np.minimum(  # cross
            np.maximum(np.abs(u) - 0.3, np.abs(v) - 1), np.maximum(np.abs(u) - 1, np.abs(v) - 0.3)
        ),
    )
    return np.asarray(np.choose(shapes[:, None, None], outlines), dtype=np.float32)


def _pattern(patterns: npt.NDArray[np.int64], u: _Pixels, v: _Pixels, period: _Pixels) -> _Pixels:
    """(K, SIDE, SIDE): 1 where the darker tone is, 0 elsewhere."""
    a, b = np.sin(2 * np.pi * u / period), np.sin(2 * np.pi * v / period)
    waves = (
        np.full_like(u, -1.0),  # plain
        a,  # stripes
        a + b - 0.9,  # dots
        a * b,  # checks
        np.sin(2 * np.pi * np.hypot(u, v) / period),  # rings
    )
    return np.asarray(np.choose(patterns[:, None, None], waves) > 0, dtype=np.float32)
