"""Picture bytes -> the encoder's tensor: with contracts.items the one preprocessing of training and serving.

How pixels become numbers is data (`ImagePreprocessing`) and travels in the encoder bundle.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from contracts.errors import InvalidInput, TooLarge, UnknownVersion

PREPROCESSING_VERSION = 1
MAX_IMAGE_BYTES = 16 * 2**20
MAX_IMAGE_PIXELS = 40_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_DRAFT_FACTOR = 2


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
    """One picture -> (3, height, width) float32.

    The first frame of an animation, turned as its EXIF says, transparency over white.
    Raises InvalidInput (not a readable picture) or TooLarge (bytes or pixels), never anything else.
    """
    if not data:
        raise InvalidInput(field, data, "is empty")
    if len(data) > MAX_IMAGE_BYTES:
        raise TooLarge(field, len(data), MAX_IMAGE_BYTES, "bytes")
    size = (preprocessing.width, preprocessing.height)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                pixels = picture.width * picture.height
                if pixels > MAX_IMAGE_PIXELS:
                    raise TooLarge(field, pixels, MAX_IMAGE_PIXELS, "pixels")
                picture.draft("RGB", (size[0] * _DRAFT_FACTOR, size[1] * _DRAFT_FACTOR))
                upright = ImageOps.exif_transpose(picture)
                rgb = _rgb(upright).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    except TooLarge:
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        raise InvalidInput(field, data[:16], f"is not a readable picture ({type(error).__name__})") from error
    values = np.asarray(rgb, dtype=np.float32) / np.float32(255)
    mean = np.asarray(preprocessing.mean, dtype=np.float32)
    std = np.asarray(preprocessing.std, dtype=np.float32)
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        values = np.asarray(picture, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        top = 65535.0 if picture.mode != "F" and high > 255 else max(high, 255.0)
        scaled = np.clip((values - min(low, 0.0)) * (255.0 / top), 0, 255)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return picture.convert("RGB")
