"""What writing texts takes: the keys and values of all tokens so far, and logits of the next ones."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


def cache_bytes(config: PreTrainedConfig, rows: int, read: int, written: int, number_bytes: int) -> int:
    """Bytes of the keys and values of a batch that has been written.

    Args:
        config: Of the base.
        rows: Rows, times the beams of each.
        read: Tokens that each row reads.
        written: Tokens that are written behind them, or by a decoder of its own.
        number_bytes: Bytes of a number, as the base computes.
    """
    text: Any = config if config.is_encoder_decoder else config.get_text_config()
    layers = _first(text, "num_decoder_layers", "decoder_layers", "num_hidden_layers")
    heads = _first(text, "decoder_attention_heads", "num_attention_heads")
    width = _first(text, "d_kv", "head_dim") or _first(text, "hidden_size") // heads
    keys = _first(text, "num_key_value_heads") or heads
    # With an encoder of its own, a decoder keeps what it reads of it, beside what it has written.
    return 2 * rows * layers * keys * width * (read + written) * number_bytes


def writing_bytes(  # noqa: PLR0917
    config: PreTrainedConfig, rows: int, read: int, written: int, number_bytes: int, vocabulary: int
) -> int:
    """The same with the logits of a token of each row, in the base's type and in float32."""
    cache = cache_bytes(config, rows, read, written, number_bytes)
    return cache + rows * vocabulary * (number_bytes + 4)


def _first(config: Any, *names: str) -> int:
    """The first of these settings that there is; 0 if there is none."""
    return next((int(value) for name in names if (value := getattr(config, name, None))), 0)
