"""The channels that a model reads, from images of any kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import ViTImageProcessorPil

from deltatune.data.pixels import Pixels, channels_of
from deltatune.errors import ModelError

SIZE = {"height": 8, "width": 8}
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize("scale", [{}, {"image_mean": [0.5], "image_std": [0.5]}])
def test_a_model_of_one_channel_reads_grey(scale: dict[str, Any]) -> None:
    pixels = Pixels(ViTImageProcessorPil(size=SIZE, **scale), channels=1)
    three = Pixels(ViTImageProcessorPil(size=SIZE))
    batch = pixels.batch([GREY, np.repeat(GREY[:, :, None], 3, axis=2)], [None, None])
    assert batch.shape == (2, 1, 8, 8)
    assert batch[0].equal(batch[1])
    assert batch[:1, 0].equal(three.batch([GREY], [None])[:, 1])


def test_files_for_one_channel_are_kept_resized(tmp_path: Any) -> None:
    from PIL import Image

    Image.fromarray(GREY).save(tmp_path / "x.png")
    pixels = Pixels(ViTImageProcessorPil(size=SIZE), channels=1)
    kept = pixels.keep([tmp_path / "x.png"])
    assert kept[0] is not None
    assert kept[0].shape == (1, 8, 8)
    both = [pixels.batch([tmp_path / "x.png"], resized) for resized in (kept, [None])]
    assert both[0].equal(both[1])


def test_channels_that_images_have_not_are_refused() -> None:
    with pytest.raises(ModelError, match="images of 4 channels"):
        Pixels(ViTImageProcessorPil(size=SIZE), channels=4)
    uneven = ViTImageProcessorPil(size=SIZE, image_mean=[0.4, 0.5, 0.6])
    with pytest.raises(ModelError, match="image_mean to one number"):
        Pixels(uneven, channels=1)


def test_channels_are_told_by_the_config() -> None:
    assert channels_of(None) == 3
    assert channels_of(SimpleNamespace(num_channels=1)) == 1
    assert channels_of(SimpleNamespace(vision_config=SimpleNamespace(num_channels=1))) == 1
