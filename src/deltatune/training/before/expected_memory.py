"""What the training step of a run should take, said before the run and kept beside what it took."""

from __future__ import annotations

from typing import Any

from deltatune import quant
from deltatune.core.attention import ORIGINAL
from deltatune.core.method import MethodConfig
from deltatune.core.ranks import ranks
from deltatune.memory.base import is_untied
from deltatune.memory.batch import largest_micro_batch
from deltatune.memory.fit import fits
from deltatune.memory.scale import predict_scaled
from deltatune.recipe.schema import MethodEntry
from deltatune.timeline import phase
from deltatune.training.before.forecast import setup_of, this_machine
from deltatune.training.before.packing import padding_of
from deltatune.training.given.context import Context, SharedBase

COPIES, KEPT, SCORES, NARROWEST = 8, 4, 6, 64
"""Of a step that is surely larger than a run's: copies of the base's parameters; parameters by width that a
token keeps; numbers a head keeps for two tokens of a row; the width of a base that does not say it."""
_known: dict[str, dict[str, int] | None] = {}


@phase("predict memory")
def predicted_run(
    context: Context, entry: MethodEntry, method: MethodConfig, base: SharedBase, seed: int
) -> dict[str, int] | None:
    """Bytes by part of the step that a run on the context's data measures; None if they cannot be told.

    It takes a second; runs of a process that are alike in all it depends on share one prediction.
    """
    data, task, model = context.data(entry, base), context.recipe.task, base.loaded.model
    train = data.encoded("train")
    pixels = data.encoder.collate(train.features[:1]).get("pixel_values")
    padding = padding_of(
        task, context.recipe.data, entry.train,
        lengths=train.lengths, view=lambda: base.adapted().view, seed=seed,
    )  # fmt: skip
    packed = padding is not None and padding.packed
    largest = largest_micro_batch(train, task, entry.train, seed, packed=packed, after_first=True)
    largest = largest.with_images(pixels)
    attention = ORIGINAL.get(model.config._attn_implementation, model.config._attn_implementation)
    setup = setup_of(task, base.spec, entry, method, model.config, base.device).changed(
        shape=largest.shape,
        exact=largest.step,
        untied=is_untied(model),
        heads=tuple(base.loaded.new_modules),
        attention=attention if attention in ORIGINAL.values() else "sdpa",
        processor=base.loaded.processor,
        processes=ranks().count if entry.train.shard else 1,
    )
    if entry.quantization is None:  # the base may be in float32 though the recipe asks for bfloat16
        setup = setup.changed(dtype=base.dtype)
    plain = {k: v for k, v in vars(setup).items() if k not in ("config", "method", "processor")}
    key = f"{model.config.to_json_string()} {method.name} {method.model_dump_json()} {plain}"
    if key not in _known:
        try:
            _known[key] = predict_scaled(setup).memory.as_dict()
        except Exception:  # a run that works must not end for want of a prediction
            _known[key] = None
    return _known[key]


def ample_memory(context: Context, entry: MethodEntry, base: SharedBase, seed: int) -> bool:
    """Whether a step so surely fits that nothing hangs on its prediction, which takes seconds."""
    most = at_most(context, entry, base, seed)
    return most is not None and fits(most, this_machine(base.device).memory_bytes)


def at_most(context: Context, entry: MethodEntry, base: SharedBase, seed: int) -> int | None:
    """Bytes that a step surely takes less than: many times what it takes. None for images, not known so fast.

    A layer of width d has about 12 d^2 parameters and keeps 17 d + 2.5 numbers a head and token of the row
    (Korthikanti et al. 2022): 1.4 of its parameters by its width. Three times that is taken here, embeddings
    included, every number in float32.
    """
    train, model = context.data(entry, base).encoded("train"), base.loaded.model
    shape = largest_micro_batch(train, context.recipe.task, entry.train, seed).shape
    length = shape.length + shape.target_length
    tokens = shape.rows * shape.texts * length
    if not tokens:
        return None
    config: Any = model.config.get_text_config()
    width, heads = (_number(config, name) for name in ("hidden_size", "num_attention_heads"))
    layers = sum(_number(config, name) for name in ("num_hidden_layers", "num_decoder_layers"))
    parameters = quant.parameter_count(model)
    of_a_token = KEPT * parameters / max(width, NARROWEST) + SCORES * layers * heads * length
    logits = KEPT * shape.labelled * _number(config, "vocab_size")
    return round(4 * (COPIES * parameters + tokens * of_a_token + logits))


def _number(config: Any, name: str) -> int:
    """A setting of a base; 0 if it has none of this name, or several."""
    value = getattr(config, name, 0)
    return value if isinstance(value, int) else 0
