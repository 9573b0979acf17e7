"""The sections about the base: which model it is, and in how many bits it is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, Strict, field_validator, model_validator

from deltatune.recipe.kinds import Bool, Text
from deltatune.recipe.section import Section

GPU_ATTENTION = ("flash_attention_2", "flex_attention")
"""What only Nvidia's GPUs compute."""


class ModelSpec(Section):
    """Which pretrained model is the base. In a recipe, a plain string means its name."""

    later = ("pooling", "dequantize")

    name: Text
    """`bundled:NAME`, a local folder (`./my-model`) or the id of a model on the Hugging Face Hub."""
    revision: str | None = None
    """The Hub commit, branch or tag to use; null means the newest."""
    trust_remote_code: Bool = False
    """Whether Python code that comes with the model may run on this machine."""
    attention: Literal["sdpa", "eager", "flash_attention_2", "flex_attention"] | None = None
    """The attention implementation of the base; null, or `auto`: sdpa, or eager where Transformers has no
    other, and eager for training on CPUs with up to 256 tokens per row, where it is faster.
    `flash_attention_2` (with the extra `flash`) and `flex_attention` are for Nvidia's GPUs."""
    image_size: Annotated[int, Strict(), Field(ge=8)] | None = None
    """Edge in pixels of the squares that an image model reads; null: its own. Half the edge is a quarter of
    the work. Position embeddings are interpolated, so it must be a multiple of the model's patches."""

    pooling: Literal["mean", "cls", "last"] | None = None
    """How a vector of a text is made of its tokens' states: their mean, the first or the last. Null: as the
    base's files for Sentence Transformers say, else the mean."""
    dequantize: Bool | None = None
    """Of a checkpoint that is quantized (GPTQ, FP8 and others): whether its weights are unpacked into plain
    ones when it is loaded. Null: they stay as they are."""

    def unpacked(self) -> ModelSpec:
        """The same base with plain weights, as merging and exporting need it."""
        return self.model_copy(update={"dequantize": True})

    @property
    def anywhere(self) -> ModelSpec:
        """The same with an attention that every device computes."""
        on_gpus = self.attention in GPU_ATTENTION
        return self.model_copy(update={"attention": None}) if on_gpus else self

    @field_validator("attention", mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class QuantizationSpec(Section):
    """How the frozen base is kept in few bits (QLoRA). In a recipe, a plain string means its format."""

    format: Literal["nf4", "fp4", "int8"] = "nf4"
    """4-bit normal floats (as QLoRA), 4-bit floats, or 8-bit integers (LLM.int8)."""
    double: Bool = True
    """Whether the scales of 4-bit blocks are quantized as well, which spares 0.37 bits per weight."""
    compute: Literal["bf16", "fp32"] = "bf16"
    """Type of activations, and of what is not quantized: embeddings, norms, the output head."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"format": value} if isinstance(value, str) else value
