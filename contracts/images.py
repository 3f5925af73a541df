"""Picture bytes -> the encoder's tensor: with contracts.items the one preprocessing of training and serving.

How pixels become numbers is data (`ImagePreprocessing`) and travels in the encoder bundle. The work has two
steps: `decode_pixels`, hostile bytes to 8-bit RGB, which may run in a process that may die, and `normalise`.
"""

from __future__ import annotations

import io
import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from contracts.errors import InvalidInput, TooLarge, UnknownVersion

PREPROCESSING_VERSION = 1
MAX_IMAGE_BYTES = 16 * 2**20
MAX_IMAGE_PIXELS = 40_000_000
MAX_JPEG_SCANS = 100  # every scan walks all blocks again: a small file could ask for hours
MAX_TILES = 100_000  # strips of a TIFF, each decoded by a call of its own
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_DRAFT_FACTOR = 2
_MAX_SIDE = 4096
Pixels = npt.NDArray[np.uint8]
_START_OF_SCAN = b"\xff\xda"  # within entropy-coded data 0xFF is always followed by 0x00 or a restart marker
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImagePreprocessing:
    """Resize to (height, width), then (x / 255 - mean) / std per RGB channel, channels first."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    version: int = PREPROCESSING_VERSION

    def __post_init__(self) -> None:
        if self.version != PREPROCESSING_VERSION:
            raise UnknownVersion("image preprocessing", self.version, PREPROCESSING_VERSION)
        for name, side in (("height", self.height), ("width", self.width)):
            if not 1 <= side <= _MAX_SIDE:
                raise InvalidInput(f"image.{name}", side, f"must be 1 to {_MAX_SIDE}")
        if not all(math.isfinite(x) for x in self.mean):
            raise InvalidInput("image.mean", self.mean, "must be finite")
        if not all(math.isfinite(x) and x > 0 for x in self.std):
            raise InvalidInput("image.std", self.std, "must be positive")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def preprocessing_from_json(document: dict[str, Any]) -> ImagePreprocessing:
    """`ImagePreprocessing.to_json()` back."""
    mean, std = (tuple(float(x) for x in document[name]) for name in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise InvalidInput("image.mean", document["mean"], "must have three channels")
    return ImagePreprocessing(
        int(document["height"]), int(document["width"]), mean, std, int(document["version"])
    )


def decode_image(
    data: bytes, preprocessing: ImagePreprocessing, field: str = "image"
) -> npt.NDArray[np.float32]:
    """One picture -> (3, height, width) float32: `decode_pixels`, then `normalise`. Raises as the first."""
    return normalise(decode_pixels(data, preprocessing.height, preprocessing.width, field), preprocessing)


def decode_pixels(data: bytes, height: int, width: int, field: str = "image") -> Pixels:
    """One picture -> (height, width, 3) uint8, RGB.

    The first frame of an animation, turned as its EXIF says, transparency over white.
    Raises InvalidInput (not a readable picture) or TooLarge (bytes or pixels), never anything else.
    """
    if not data:
        raise InvalidInput(field, data, "is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise TooLarge(field, len(data), MAX_IMAGE_BYTES, "bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check_work(picture, data, field)
                return np.asarray(_upright_rgb(picture, width, height))
    except TooLarge:
        raise
    except Image.DecompressionBombError as error:
        least = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise TooLarge(field, least, MAX_IMAGE_PIXELS, "pixels or more") from error
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        raise InvalidInput(field, data[:16], f"is not a readable picture ({type(error).__name__})") from error


def normalise(pixels: Pixels, preprocessing: ImagePreprocessing) -> npt.NDArray[np.float32]:
    """(height, width, 3) uint8 -> (3, height, width) float32, (x / 255 - mean) / std, from a table of 256."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    mean = np.asarray(preprocessing.mean, dtype=np.float32)
    std = np.asarray(preprocessing.std, dtype=np.float32)
    table = (levels[:, None] - mean) / std
    out = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
    for channel in range(3):
        np.take(table[:, channel], pixels[..., channel], out=out[channel], mode="clip")
    return out


def _check_work(picture: Image.Image, data: bytes, field: str) -> None:
    """Refuse, before anything is decoded, what would take unbounded memory or time."""
    pixels = picture.width * picture.height
    if pixels > MAX_IMAGE_PIXELS:
        raise TooLarge(field, pixels, MAX_IMAGE_PIXELS, "pixels")
    if picture.format in ("JPEG", "MPO") or "jpeg" in str(picture.info.get("compression", "")):
        scans = data.count(_START_OF_SCAN)
        if scans > MAX_JPEG_SCANS:
            raise TooLarge(field, scans, MAX_JPEG_SCANS, "scans")
    tiles = len(getattr(picture, "tile", ()))
    if tiles > MAX_TILES:
        raise TooLarge(field, tiles, MAX_TILES, "strips")


def _upright_rgb(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Shrunk first, so that everything else works on few pixels."""
    side = _DRAFT_FACTOR * max(width, height)
    picture.draft("RGB", (side, side))
    picture.load()  # a TIFF turns itself here, and is then not turned again below
    turn = _TURNS.get(_orientation(picture))
    turned = turn is not None and turn not in (
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.ROTATE_180,
    )
    size = (height, width) if turned else (width, height)
    small = _resizable(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    if small.mode == "F":
        small = _grey(small, 65535.0 if picture.mode.startswith("I;16") else None)
    elif small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, (255, 255, 255, 255)), small)
    rgb = small.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(picture: Image.Image) -> int:
    """EXIF's orientation; broken EXIF must not cost us a picture whose pixels can be read."""
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def _resizable(picture: Image.Image) -> Image.Image:
    """The picture in a mode that can be interpolated: F, RGBA or RGB."""
    if picture.mode.startswith("I;16"):
        return picture.convert("I").convert("F")
    if picture.mode in ("I", "F"):
        return picture.convert("F")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return picture.convert("RGBA")
    return picture.convert("RGB")


def _grey(picture: Image.Image, top: float | None) -> Image.Image:
    """Wide grey values -> 8 bits. top: what white is; None: the least usual white that holds all values."""
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    values -= min(float(values.min()), 0.0)
    high = float(values.max())
    white = top or next((usual for usual in (1.0, 255.0, 65535.0) if high <= usual), high)
    return Image.fromarray(np.clip(values * (255.0 / white), 0, 255).astype(np.uint8))
