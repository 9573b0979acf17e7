r"""Prompt tuning: learned vectors before the embedded input.

    h_0 = [P; E(x)]                      (Lester et al. 2021, section 2)

P is [n_tokens, d_model]. It starts as the embeddings of sampled frequent tokens (section 3.2: from the 5,000
most common, which in SentencePiece and BPE vocabularies are the first), as those of a text, or uniform in
[-0.5, 0.5] (the paper's random). In encoder-decoder models it stands before the encoder's input; in vision
models it follows the class token (Jia et al. 2022, VPT).

Oracle: peft's PromptTuningConfig with copied vectors (for encoder-decoder models with one transformer
    submodule).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from deltatune.core.adapter import Adapter, Prompt
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.core.whole import gathered
from deltatune.errors import AdapterError, TargetError

FREQUENT_TOKENS = 5000


class SoftPrompt(Prompt):
    """The vectors as a parameter [n_tokens, d_model]."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.prompt_embeddings = nn.Parameter(vectors.detach().clone().float())

    def forward(self) -> Tensor:
        """Return the vectors."""
        return self.prompt_embeddings


class PromptConfig(MethodConfig):
    """Prompt tuning. The smallest delta of all; needs a large base or a high learning rate to shine."""

    name: ClassVar[str] = "prompt"
    title: ClassVar[str] = "Learned vectors before the embedded input."
    formula: ClassVar[str] = "h_0 = [P; E(x)]"
    when: ClassVar[str] = (
        "For the smallest file of all; needs a large base or a high learning rate and many steps to shine."
    )
    cost: ClassVar[str] = "n_tokens d parameters in all; inputs are n_tokens longer, for good."
    defaults: ClassVar[str] = (
        "lr 0.1, chosen here between the 0.3 of Lester et al. 2021, section 3, for T5 and the 0.03 of peft's "
        "guide: of the three it was best on MiniLM and DINOv2, and it learns well on T5. 20 tokens from "
        "sampled frequent words, which are among the settings of their section 3.2 (their own default is 100 "
        "tokens from class labels)."
    )
    size: ClassVar[str | None] = "n_tokens"
    paper: ClassVar[str] = (
        "Lester et al. 2021, The Power of Scale for Parameter-Efficient Prompt Tuning (2104.08691)."
    )
    default_lr: ClassVar[float] = 0.1
    peft_type: ClassVar[str | None] = "PROMPT_TUNING"

    n_tokens: Annotated[int, Field(ge=1)] = 20
    """Number of vectors."""
    init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Where they start: embeddings of sampled frequent tokens, of `text` (repeated to length), or random."""
    text: str | None = None
    """The text to start from, for `init: text`."""

    @model_validator(mode="after")
    def _text_with_init(self) -> Self:
        if (self.init == "text") != bool(self.text):
            raise ValueError("`text` and `init: text` belong together; give both or neither")
        return self

    def build(self, view: BaseView) -> Adapter:
        """The prompt, started as the configuration says."""
        return Adapter(prompt=SoftPrompt(self._start(view)))

    def _start(self, view: BaseView) -> Tensor:
        if view.is_vision:
            if self.init == "text":
                raise TargetError(
                    f"{view.model_type} has no vocabulary for 'text'.",
                    field="prompt.init",
                    remedy="Use 'random'.",
                )
            return torch.empty(self.n_tokens, view.d_model).uniform_(-0.5, 0.5)
        embed = view.tokens
        if self.init == "random":
            return torch.empty(self.n_tokens, embed.embedding_dim).uniform_(-0.5, 0.5)
        if self.init == "text":
            ids = self._text_ids(view)
        else:
            ids = torch.randint(0, min(FREQUENT_TOKENS, embed.num_embeddings), (self.n_tokens,))
        with gathered(embed):
            vectors: Tensor = embed(ids.to(embed.weight.device))
        return vectors

    def _text_ids(self, view: BaseView) -> Tensor:
        if view.processor is None:
            raise TargetError(
                "starting from a text needs the base's tokenizer.",
                field="prompt.text",
                remedy="Pass processor=tokenizer to AdaptedModel.",
            )
        ids = view.processor(self.text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise TargetError(
                f"{self.text!r} has no tokens.", field="prompt.text", remedy="Give a text with words in it."
            )
        return torch.tensor((ids * self.n_tokens)[: self.n_tokens])

    def for_inference(self, adapter: Adapter) -> Self:
        """The same without the text, which only the start needs."""
        return self.model_copy(update={"init": "random", "text": None})

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """The fields of peft's PromptTuningConfig; there is none for vision models."""
        if view.is_vision:
            return None
        text = view.config.get_text_config()  # for peft to read; what computes needs only the first three
        fields = {
            "num_virtual_tokens": self.n_tokens,
            "token_dim": adapter.prompt().shape[1] if adapter.prompt else view.d_model,
            "num_transformer_submodules": 1,
            "num_attention_heads": getattr(text, "num_attention_heads", None),
            "num_layers": getattr(text, "num_hidden_layers", None),
            "prompt_tuning_init": "RANDOM",
        }
        return fields, adapter.stored()

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields.

        Raises:
            AdapterError: The prompt also stands before the decoder's input, which this method does not do.
        """
        if config.get("num_transformer_submodules") == 2:
            raise AdapterError(
                "the prompt has a part for the decoder (num_transformer_submodules: 2).",
                field="adapter_config.json",
                remedy="Load it with peft, or train with num_transformer_submodules=1.",
            )
        return cls(n_tokens=config["num_virtual_tokens"], init="random")
