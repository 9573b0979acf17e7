"""From images to a vision model's pixel values, by the base's own image processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltatune.data.images import decode_image
from deltatune.data.rows import Input

if TYPE_CHECKING:
    from torch import Tensor

KEPT_BYTES = 2**30
"""Resized image files are kept in memory up to this size; beyond it they are decoded anew for every batch."""

_RESIZE_ONLY = {"do_rescale": False, "do_normalize": False}
_RESIZED_ALREADY = {"do_resize": False, "do_center_crop": False}


class Pixels:
    """An image processor, and the images that it has resized.

    Decoding and resizing a photograph takes longer than all else done to it, and every epoch of every
    run of a comparison would do it again. So files are kept as the 8-bit pixels that the processor's resizing
    gives; scaling and normalising follow with each batch. The result is the same to the bit, which is tried
    on the first image; a processor that cannot be halved so is used whole.

    Args:
        processor: A Hugging Face image processor.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self._separable: bool | None = None

    def keep(self, images: Sequence[Input]) -> list[NDArray[np.uint8] | None]:
        """Decode all images, and give those worth keeping, resized: [channels, height, width].

        Raises:
            DataError: An image is missing or broken.
        """
        kept: list[NDArray[np.uint8] | None] = []
        total = 0
        for image in images:
            assert not isinstance(image, str)
            pixels = decode_image(image)
            resized = self._resize(pixels) if isinstance(image, Path) and total < KEPT_BYTES else None
            total += 0 if resized is None else resized.nbytes
            kept.append(resized)
        return kept

    def batch(self, images: Sequence[Input], resized: Sequence[NDArray[np.uint8] | None]) -> Tensor:
        """Give pixel values, float32 [rows, channels, height, width]."""
        import torch

        rows = [
            self._whole(decode_image(image)) if small is None else self._rest(small)  # type: ignore[arg-type]
            for image, small in zip(images, resized, strict=True)
        ]
        return torch.from_numpy(np.stack(rows))

    def _resize(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        if self._separable is False:
            return None
        resized = self._process(pixels, "channels_last", **_RESIZE_ONLY)
        if self._separable is None:
            self._separable = resized.dtype == np.uint8 and np.array_equal(
                self._rest(resized), self._whole(pixels)
            )
        return resized if self._separable else None

    def _rest(self, resized: NDArray[np.uint8]) -> NDArray[Any]:
        return self._process(resized, "channels_first", **_RESIZED_ALREADY)

    def _whole(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        return self._process(pixels, "channels_last")

    def _process(self, pixels: NDArray[np.uint8], layout: str, **steps: bool) -> NDArray[Any]:
        batch = self.processor(images=[pixels], return_tensors="np", input_data_format=layout, **steps)
        values: NDArray[Any] = batch["pixel_values"][0]
        return values
