"""`bundled:t5-small`: an encoder-decoder of Flan-T5-small's shape, fine-tuned to write short titles.

From traceforge-title-model (MIT; base Flan-T5-small, Apache-2.0), where it is stored as int8 ONNX. The
weights here are the dequantized ones, so logits differ slightly from ONNX Runtime's, which quantizes the
activations as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from deltatune.files import write_json
from deltatune.models.bundled.onnx_weights import Array, OnnxWeights
from deltatune.models.bundled.source import WEIGHTS, BundledModel

CONFIG = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
GENERATION = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
TOKENIZER = {
    "tokenizer_class": "T5Tokenizer",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "extra_ids": 100,
}


def _weights(source: Path) -> dict[str, Array]:
    encoder = OnnxWeights(source / "data/span/encoder.onnx", "enc.")
    decoder = OnnxWeights(source / "data/span/decoder.onnx", "m.")
    found = {f"encoder.{name}": weight for name, weight in (encoder.named() | encoder.linears()).items()}
    found |= decoder.named() | decoder.linears()
    embedding = found.pop("encoder.embed_tokens.weight")  # the encoder's copy of `shared`
    if not np.array_equal(embedding, found["shared.weight"]):
        raise ValueError("the encoder's and the decoder's embeddings differ")
    return found


def _tokenizer(source: Path) -> dict[str, Any]:
    tokenizer: dict[str, Any] = json.loads((source / "data/span/tokenizer.json").read_text(encoding="utf-8"))
    # The file's own limits (48 tokens) belong to the titler's task, not to the model.
    tokenizer["truncation"] = tokenizer["padding"] = None
    return tokenizer


def convert(source: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 weights. `shared` and `lm_head` are both stored: they differ."""
    from safetensors.numpy import save_file

    save_file(_weights(source), folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "generation_config.json", GENERATION)
    write_json(folder / "tokenizer.json", _tokenizer(source))
    write_json(folder / "tokenizer_config.json", TOKENIZER)


T5_SMALL = BundledModel(
    name="t5-small",
    package="traceforge-title-model",
    package_version="0.2.0",
    module="traceforge_title_model",
    files={
        "data/span/encoder.onnx": "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787",
        "data/span/decoder.onnx": "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc",
        "data/span/tokenizer.json": "3550c5f922922567115f702e0543b57276366fc321cf1f088859c71491656cf6",
    },
    converter_version=1,
    needs=("onnx",),
    convert=convert,
)
