"""The token ids of a base and its tokenizer: one padding token, a vocabulary that fits, plain generation."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from deltatune.errors import ModelError

_TOKEN_IDS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)


def plain_generation(model: PreTrainedModel) -> None:
    """Keep only the token ids of the checkpoint's generation settings.

    Sampling, beams, length limits or repetition penalties that a checkpoint carries along would change what
    is measured without standing in the recipe.
    """
    stored = model.generation_config
    kept = {key: getattr(stored, key, None) for key in _TOKEN_IDS}
    model.generation_config = GenerationConfig(**kept, do_sample=False)


def check_vocabulary(model: PreTrainedModel, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer without words (its files are missing) or with more tokens than embeddings.

    A padding token may lie beyond them, as one that was added later does: `set_padding` takes another.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    words = len(tokenizer) - len(tokenizer.all_special_ids)
    beyond = len(tokenizer) - rows - (tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows)
    if words < 1 or beyond > 0:
        raise ModelError(
            f"the tokenizer of '{name}' has {len(tokenizer)} tokens ({words} of them words), the model has "
            f"{rows} embeddings.",
            field="model",
            remedy="Put the model's own tokenizer files (tokenizer.json) into its folder.",
        )


def set_padding(model: PreTrainedModel, tokenizer: Any, name: str) -> list[str]:
    """Let tokenizer and model have one padding token that the model can read; return warnings.

    What is padding is told by length, never by id. But sequence classifiers on decoder-only models find the
    last token of a row by the id in their config, so that another one than batches are filled with makes
    their answer depend on the batch.
    """
    embeddings: Any = model.get_input_embeddings()
    rows, warnings = embeddings.weight.shape[0], []
    given = tokenizer.pad_token_id
    if given is None or given >= rows:
        if tokenizer.eos_token_id is None:
            what = (
                "no padding token" if given is None else f"a padding token ({given}) beyond {rows} embeddings"
            )
            raise ModelError(
                f"the tokenizer of '{name}' has {what}, and no end token instead.", field="model"
            )
        if given is not None:
            warnings.append(
                f"the padding token {tokenizer.pad_token!r} of '{name}' ({given}) lies beyond its {rows} "
                f"embeddings; batches are padded with {tokenizer.eos_token!r} instead."
            )
        tokenizer.pad_token = tokenizer.eos_token
    generation = getattr(model, "generation_config", None)  # only models that generate have one
    for config in (model.config, model.config.get_text_config(), generation):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
    return warnings
