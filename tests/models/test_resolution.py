from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from deltatune.errors import ModelError, RecipeError
from deltatune.models.load import load_base
from deltatune.models.resolution import interpolate_positions, processor_sizes
from deltatune.recipe.load import parse_recipe
from tests.models.conftest import spec

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 4,
}


def test_processor_and_base_agree_on_the_new_size(checkpoints):
    base = load_base(spec(checkpoints["vit"], image_size=16), "image-classification", ["no", "yes"])
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    pixels = base.processor(images=[image], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    told = base.model(pixels).logits
    plain = load_base(spec(checkpoints["vit"]), "image-classification", ["no", "yes"]).model
    with pytest.raises(ValueError, match="doesn't match"):
        plain(pixels)
    assert torch.equal(told, plain(pixels, interpolate_pos_encoding=True).logits)


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (ViTConfig, ViTModel),
        (DeiTConfig, DeiTModel),
        (Dinov2Config, Dinov2Model),
        (CLIPVisionConfig, CLIPVisionModel),
    ],
)
def test_every_vision_model_reads_smaller_images(config, model):
    base = model(config(**SMALL)).eval()
    interpolate_positions(base, 8, "toy")
    extra = 2 if model is DeiTModel else 1
    assert base(torch.randn(2, 3, 8, 8)).last_hidden_state.shape == (2, 4 + extra, 16)


def test_an_edge_that_cuts_patches_names_its_neighbours():
    with pytest.raises(ModelError, match="no multiple of 4") as caught:
        interpolate_positions(ViTModel(ViTConfig(**SMALL)), 10, "toy")
    assert "8 or 12" in str(caught.value.remedy)


def test_a_model_without_such_positions_is_refused():
    model = torch.nn.Linear(2, 2)
    model.config = type("Config", (), {"image_size": 16})()
    with pytest.raises(ModelError, match="positions cannot be interpolated"):
        interpolate_positions(model, 8, "toy")


def test_the_ratio_of_resizing_to_cropping_is_kept():
    settings = {
        "do_center_crop": True,
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
    }
    assert processor_sizes(settings, 112) == {
        "size": {"shortest_edge": 128},
        "crop_size": {"height": 112, "width": 112},
    }
    assert processor_sizes({"size": {"height": 224, "width": 224}}, 112) == {
        "size": {"height": 112, "width": 112}
    }


def test_a_task_about_text_has_no_image_size():
    with pytest.raises(RecipeError, match="reads text"):
        parse_recipe(
            {
                "task": "text-classification",
                "model": {"name": "bundled:minilm", "image_size": 112},
                "data": "rows.csv",
                "methods": ["lora"],
            }
        )
