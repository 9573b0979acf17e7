"""From images to a vision model's pixel values, by the base's own image processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deltatune.data.decode import decode_image
from deltatune.data.rows import Input
from deltatune.errors import ModelError

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
        channels: What the model reads: 3 for RGB, 1 for grey.

    Raises:
        ModelError: The model reads another number of channels, or the processor scales another number.
    """

    def __init__(self, processor: Any, channels: int = 3) -> None:
        if channels not in (1, 3):
            raise ModelError(
                f"reads images of {channels} channels; images here are RGB (3) or grey (1).",
                field="model",
                remedy="Take a model whose config.json has num_channels 3 or 1.",
            )
        self.processor, self.channels = processor, channels
        self._scale = _one_channel(processor) if channels == 1 else {}
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
            pixels = decode_image(image, self.channels)
            resized = self._resize(pixels) if isinstance(image, Path) and total < KEPT_BYTES else None
            total += 0 if resized is None else resized.nbytes
            kept.append(resized)
        return kept

    def batch(self, images: Sequence[Input], resized: Sequence[NDArray[np.uint8] | None]) -> Tensor:
        """Give pixel values, float32 [rows, channels, height, width]."""
        import torch

        rows = [
            self._whole(decode_image(image, self.channels)) if small is None else self._rest(small)  # type: ignore[arg-type]
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
        batch = self.processor(
            images=[pixels], return_tensors="np", input_data_format=layout, **self._scale, **steps
        )
        values: NDArray[Any] = batch["pixel_values"][0]
        return values


def channels_of(config: Any) -> int:
    """How many channels the images of a model have; its config may be None."""
    return int(getattr(getattr(config, "vision_config", config), "num_channels", 3))


def _one_channel(processor: Any) -> dict[str, list[float]]:
    """Mean and deviation for grey where the processor has three equal ones, as its defaults are."""
    scale: dict[str, list[float]] = {}
    for name in ("image_mean", "image_std"):
        values = getattr(processor, name, None)
        if isinstance(values, Sequence) and len(values) > 1:
            if len(set(values)) > 1:
                raise ModelError(
                    f"reads grey images, but its image processor scales {len(values)} channels: {name} "
                    f"{list(values)}.",
                    field="model",
                    remedy=f"Set {name} to one number in preprocessor_config.json.",
                )
            scale[name] = [values[0]]
    return scale
