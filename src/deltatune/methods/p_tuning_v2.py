r"""P-tuning v2: a prompt at every layer, for encoders and classification as much as for generation.

    head_l = Attn(h W_q, [P_k^l; h W_k], [P_v^l; h W_v])  for every layer l     (Liu et al. 2022, section 3.2)

The computation is that of `prefix`. What the paper adds is where and how it is used: in encoders such as
BERT (and here ViT) with an ordinary classification head in place of label words, free keys and values without
the reparameterisation of prefix tuning (which section 3.3 finds helpful on some tasks and harmful on others:
`projection` still gives it), longer prompts (section 3.3: below 20 for simple classification, about 100 for
sequence labelling) and a learning rate of its own.

Oracle: `past_key_values` on causal models; the attention formula, written out, on BERT and DeBERTa. In the
authors' BERT the prompt also moves the input's positions; here encoders keep theirs. To DeBERTa's relative
positions it has none, in the authors' code as here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from deltatune.methods.prefix import PrefixConfig


class PTuningV2Config(PrefixConfig):
    """P-tuning v2. Deep prompts for understanding tasks; all weights stay as they are."""

    name: ClassVar[str] = "p_tuning_v2"
    title: ClassVar[str] = "Learned keys and values at every layer, with a classification head where one is."
    formula: ClassVar[str] = "head_l = Attn(h W_q, [P_k^l; h W_k], [P_v^l; h W_v]) for every layer l"
    when: ClassVar[str] = (
        "For classification with encoders of any size when all weights must stay as they are; usually "
        "behind lora."
    )
    defaults: ClassVar[str] = (
        "40 tokens and lr 5e-3, which lie within the ranges of the authors' scripts for SuperGLUE; no "
        "reparameterisation, every attention."
    )
    paper: ClassVar[str] = (
        "Liu et al. 2022, P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning (arXiv 2110.07602)."
    )
    default_lr: ClassVar[float] = 5e-3

    n_tokens: Annotated[int, Field(ge=1)] = 40
    """Length of the prompt at each layer. Up to 20 for simple classification, about 100 for labelling."""

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """No: what peft calls PREFIX_TUNING loads as `prefix`, which computes the same."""
        return False
