"""Ways to compute that only some GPUs have, refused where they cannot be had before anything is loaded."""

from __future__ import annotations

import importlib.util

from deltatune.core.devices import device_of
from deltatune.core.fast.kernels import CUT_CROSS_ENTROPY, LIGER, TRITON
from deltatune.errors import RecipeError
from deltatune.recipe.base_sections import GPU_ATTENTION
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.tasks import TASKS
from deltatune.tasks.task import Task
from deltatune.training.given.start import settings_of

_PACKAGES = {
    TRITON: ("triton", "triton", "kernels"),
    LIGER: ("liger_kernel", "liger-kernel", "kernels"),
    CUT_CROSS_ENTROPY: ("cut_cross_entropy", "cut-cross-entropy", "kernels"),
    "flash_attention_2": ("flash_attn", "flash-attn", "flash"),
}
"""By kernels or attention: the module that is imported, its package, and the extra that installs it."""


def require_gpu_ways(recipe: Recipe, entry: MethodEntry, dtype: str) -> None:
    """Refuse kernels and attention that an entry asks for and cannot have.

    Args:
        recipe: Its device, task and base.
        entry: The entry.
        dtype: What its base is computed in, unless it is quantized: `float32` or `bfloat16`.

    Raises:
        RecipeError: The device, a package, the task or the method does not allow it.
    """
    for name in entry.train.kernels or ():
        _require(recipe, name, "train.kernels")
    if CUT_CROSS_ENTROPY in (entry.train.kernels or ()):
        _require_a_vocabulary(recipe)
    attention = recipe.model_of(entry).attention
    if attention in GPU_ATTENTION:
        _require(recipe, attention, "model.attention")
        _require_fit(recipe, entry, attention, dtype)


def _require(recipe: Recipe, name: str, field: str) -> None:
    """Refuse what another device or a package is needed for."""
    device = device_of(recipe.device)
    if device.type != "cuda":
        raise RecipeError(
            f"{name} is made for Nvidia's GPUs, and this run is on the device {device.type}.",
            field=field,
            remedy=f"Leave {name} out here, or run on such a GPU (--device cuda).",
        )
    module, package, extra = _PACKAGES.get(name, ("torch", "torch", ""))
    if importlib.util.find_spec(module) is None:
        raise RecipeError(
            f"{name} needs the package {package}, which is not installed.",
            field=field,
            remedy=f'Install it: pip install "deltatune[{extra}]".',
        )


def _require_a_vocabulary(recipe: Recipe) -> None:
    task = TASKS.get(recipe.task)
    if not task.writes_text or type(task).loss is not Task.loss:
        raise RecipeError(
            f"{CUT_CROSS_ENTROPY} fuses the loss with the output head of a vocabulary, and the task "
            f"{recipe.task} has none.",
            field="train.kernels",
            remedy="Leave it out.",
        )


def _require_fit(recipe: Recipe, entry: MethodEntry, attention: str, dtype: str) -> None:
    """Refuse an attention that does not go with the method, the packing of rows, or the precision."""
    remedy = "Leave it out, or choose sdpa."
    if settings_of(entry).learns_keys:
        raise RecipeError(
            f"{attention} cannot attend to the learned keys and values of {entry.method}.",
            field="model.attention",
            remedy=remedy,
        )
    if recipe.data_of(entry).packing is True:
        raise RecipeError(
            f"{attention} would let packed rows see each other.",
            field="model.attention",
            remedy="Leave it out, or leave out data.packing.",
        )
    bits = entry.quantization
    wide = dtype == "float32" if bits is None else bits.compute == "fp32"
    if attention == "flash_attention_2" and wide:
        where = "train.precision" if bits is None else "quantization.compute"
        raise RecipeError(
            f"{attention} computes in 16 bits alone, and the base of {entry.name} is in float32 ({where}).",
            field="model.attention",
            remedy=f"{remedy} Or set {where} to bf16, if the GPU has instructions for it.",
        )
