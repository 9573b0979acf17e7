"""From an image of any kind to 8-bit pixels: the one conversion that training, checks and prediction share.

- Grey of 16 or 32 bits is scaled from 0..65535, real numbers from 0..1 (or 0..255), always by the type and
  never by an image's own brightest pixel: else the same grey would mean different things in two files.
- Transparency is put on white.
- What would lose its content that way is refused by name.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltatune.data.files import missing_file
from deltatune.data.rows import Image
from deltatune.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_PIXELS = 89_478_485
"""Largest image that is decoded: 268 MB as RGB; Pillow's own mark of a decompression bomb."""
MAX_FILE = 512 << 20
"""Largest image file that is read, in bytes."""
LEAST_SHARE = 1 / 16
"""Of the scale that the brightest pixel must reach: below, 8 bits leave fewer than 16 grey levels."""

# What cameras, scanners and programs write. Others are left out because reading them runs another program
# (EPS) or because anything passes for them (TGA).
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "DIB")


def decode_image(image: Image | Path, channels: int = 3, least_side: int | None = None) -> Image:
    """Decode an image to pixels, uint8 [height, width, channels].

    Args:
        image: A file, whose EXIF orientation is followed; or pixels [height, width] or [height, width, 1 to
            4], of which 2 and 4 have transparency.
        channels: 3 for RGB, in which grey images have three equal channels; 1 for grey.
        least_side: Pixels that suffice for each side. JPEG files are then decoded faster, at a smaller size.

    Raises:
        DataError: The file is missing, broken, too large or no image, the array has another shape, or too
            little of its content would be left at 8 bits on white.
    """
    from PIL import Image as Pil  # an image task needs it, importing this module does not
    from PIL import ImageOps

    if isinstance(image, Path):
        with open_image(image) as opened:
            if least_side is not None:
                opened.draft("L" if channels == 1 else "RGB", (least_side, least_side))
            inverted = _white_is_zero(opened)
            return convert_picture(ImageOps.exif_transpose(opened), str(image), channels, inverted)
    what = f"array {list(image.shape)}"
    with _explained(what):
        grey = image.ndim == 3 and image.shape[2] == 1
        picture = Pil.fromarray(eight_bits(image[:, :, 0] if grey else image, what))
        return convert_picture(picture, what, channels)


@contextlib.contextmanager
def open_image(path: Path) -> Iterator[Picture]:
    """Open an image file; its pixels are not read yet.

    Raises:
        DataError: It is missing, no regular file, too large, broken or no image; what the block raises
            about broken content is said so too.
    """
    from PIL import Image as Pil

    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise DataError("is no regular file.", field=str(path), remedy="Name an image file.")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise missing_file(path, error if isinstance(error, OSError) else None) from error
    if size > MAX_FILE:
        raise DataError(
            f"has {size >> 20} MB; image files of up to {MAX_FILE >> 20} MB are read.",
            field=str(path),
            remedy="Make it smaller.",
        )
    with _explained(str(path)):
        with warnings.catch_warnings():  # Pillow's own limit warns only, and in other words
            warnings.simplefilter("ignore", Pil.DecompressionBombWarning)
            opened = Pil.open(path, formats=_formats())
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise Pil.DecompressionBombError(
                    f"{opened.width} x {opened.height} pixels, more than {MAX_PIXELS:,}"
                )
            yield opened


@functools.cache
def _formats() -> tuple[str, ...]:
    from PIL import Image as Pil

    Pil.init()
    return tuple(name for name in _FORMATS if name in Pil.OPEN)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    from PIL import Image as Pil
    from PIL import UnidentifiedImageError

    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise missing_file(Path(what), error) from error
    except Pil.DecompressionBombError as error:
        raise DataError(
            f"is too large to be decoded ({error}).", field=what, remedy="Make it smaller."
        ) from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "of no format that is read" if unknown else str(error).rstrip(".") or type(error).__name__
        raise DataError(
            f"is broken or no image ({reason}).", field=what, remedy="Replace or remove it."
        ) from error


def convert_picture(picture: Picture, what: str, channels: int = 3, inverted: bool = False) -> Image:
    """Convert a picture of any of Pillow's modes to pixels, uint8 [height, width, channels].

    Args:
        picture: The picture.
        what: Its name, for messages.
        channels: 3 for RGB, 1 for grey.
        inverted: Whether 0 means white in grey of more than 8 bits.

    Raises:
        DataError: The mode is of another kind, or too little of the content would be left.
    """
    from PIL import Image as Pil

    with _explained(what):
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            if "transparency" in picture.info:
                raise DataError(
                    "marks a grey of 16 bits as transparent, which is not read.",
                    field=what,
                    remedy="Put it on a background.",
                )
            grey = eight_bits(np.asarray(picture), what)
            picture = Pil.fromarray(255 - grey if inverted else grey)
        elif picture.has_transparency_data:
            picture = _on_white(picture, what)
        if picture.mode not in ("1", "L"):  # not all modes have a way to grey
            picture = picture.convert("RGB")
        if channels == 1:
            return np.asarray(picture.convert("L"), dtype=np.uint8)[:, :, None]
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def _white_is_zero(picture: Picture) -> bool:
    """Whether a TIFF file counts its grey from white to black. Pillow turns 8 bits round, but not more."""
    tags: Any = getattr(picture, "tag_v2", {})
    return tags.get(262) == 0  # PhotometricInterpretation: WhiteIsZero


def _on_white(picture: Picture, what: str) -> Picture:
    from PIL import Image as Pil

    if picture.mode in ("La", "RGBa"):  # colours that were multiplied by their alpha
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[picture.mode])
    picture = picture.convert("RGBA")
    white = Pil.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    flat = white.convert("RGB")
    lowest, highest = picture.getchannel("A").getextrema()
    if lowest != highest and flat.getextrema() == ((255, 255),) * 3:
        raise DataError(
            "is white on transparent: put on white, as all transparency is, nothing of it is left.",
            field=what,
            remedy="Put such images on a background of another colour.",
        )
    return flat


def eight_bits(pixels: NDArray[Any], what: str) -> Image:
    """Scale pixels of any type to uint8, of the same shape; uint8 stays as it is.

    Truth values become 0 and 255. Whole numbers of more than 8 bits are scaled from 0..65535. Real numbers
    are scaled from 0..1; if there are larger ones, they count from 0 to 255.

    Args:
        pixels: Of one image, or of all images that share a scale.
        what: Their name, for messages.

    Raises:
        DataError: Pixels are outside that scale, no numbers, or use so little of the scale that fewer than 16
            levels would be left.
    """
    if pixels.dtype == np.uint8:
        return pixels
    kind = pixels.dtype.kind
    if kind not in "biuf":
        raise DataError(
            f"has pixels of type {pixels.dtype}.", field=what, remedy="Save them as uint8, 0..255."
        )
    if kind == "b" or not pixels.size:
        return pixels.astype(np.uint8) * np.uint8(255)
    lowest, highest = pixels.min(), pixels.max()
    whole, real = 255 if pixels.dtype.itemsize == 1 else 65535, 1 if highest <= 1 else 255
    top = real if kind == "f" else whole
    if not 0 <= lowest <= highest <= top:  # neither is what is not a number
        raise DataError(
            f"has {pixels.dtype} pixels from {lowest:g} to {highest:g}; what is read goes from 0 to {top}.",
            field=what,
            remedy="Scale them to 0..255 and save them as uint8.",
        )
    if 0 < highest < top * LEAST_SHARE:
        raise DataError(
            f"has {pixels.dtype} pixels up to {highest:g} of {top}: at 8 bits nearly all is black.",
            field=what,
            remedy="Scale all images alike, to what they mean: of 12 bits times 16; of 8 bits as uint8.",
        )
    scaled = np.empty(pixels.shape, np.uint8)
    for place, part in enumerate(pixels):  # one by one: the numbers between take eight times the room
        scaled[place] = np.rint(part * (255 / top))
    return scaled
