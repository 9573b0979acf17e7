"""Tokenizers of the kinds that matter, trained on a few sentences within a fraction of a second.

All are byte-level BPE, so that every text can be encoded and decoded without loss. They differ in the special
tokens and in what a call adds by itself:

| kind  | pad   | bos               | eos             | a call gives     | of a pair                   |
|-------|-------|-------------------|-----------------|------------------|-----------------------------|
| t5    | 0     | none              | 1               | text eos         | text eos text eos           |
| bart  | 1     | 0                 | 2               | bos text eos     | bos text eos eos text eos   |
| llama | none  | 1                 | 2               | bos text         | bos text bos text           |
| gpt2  | none  | 0 (the same)      | 0 (the same)    | text             | text text                   |
| bert  | 0     | none              | none            | [CLS] text [SEP] | [CLS] text [SEP] text [SEP] |

Of a pair, BERT's gives token types too.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

Kind = Literal["t5", "bart", "llama", "gpt2", "bert"]

SENTENCES = (
    "title: 0 Country: Russia, Cost: 42$, 1 Country: Spain, Cost: 7$,",
    "the quick brown fox jumps over the lazy dog",
    "Championship of 2001, medals by nation and year",
    "In the third quarter, net sales increased by 5.2 % to EUR 205.5 mn.",
)
SPECIALS: dict[Kind, tuple[list[str], dict[str, str], str | None]] = {
    "t5": (
        ["<pad>", "</s>", "<unk>"],
        {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "$A </s>",
    ),
    "bart": (
        ["<s>", "<pad>", "</s>", "<unk>"],
        {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
        "<s> $A </s>",
    ),
    "llama": (
        ["<unk>", "<s>", "</s>"],
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "<s> $A",
    ),
    "gpt2": (
        ["<|endoftext|>"],
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
        None,
    ),
    "bert": (
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
        "[CLS] $A [SEP]",
    ),
}
PAIRS: dict[Kind, str] = {
    "t5": "$A </s> $B </s>",
    "bart": "<s> $A </s> </s> $B </s>",
    "llama": "<s> $A <s> $B",
    "bert": "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Begins with the begin token, as Llama's own does; a double one would be a defect."""


def tiny_tokenizer(kind: Kind, *, chat: bool = False) -> PreTrainedTokenizerFast:
    """Build a tokenizer of a kind, with about 400 tokens; `len(tokenizer)` is the size of the vocabulary.

    Args:
        kind: Whose habits it has.
        chat: Whether it has a chat template (for llama).
    """
    _, names, _ = SPECIALS[kind]
    inputs = ["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained(kind)), model_input_names=inputs, **names
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@functools.cache
def _trained(kind: Kind) -> str:
    specials, _, template = SPECIALS[kind]
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if template is not None:
        used = [(name, specials.index(name)) for name in specials if name in template]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair=PAIRS[kind], special_tokens=used
        )
    return str(tokenizer.to_str())
