"""All Triton kernels here, with the types of their arguments: what a compiler is given without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deltatune.core.fast.kernels import add_up, down, down_up, grad_down, grad_input
from deltatune.core.fast.kernels.launch import settings


@dataclass(frozen=True)
class Kernel:
    """A kernel, and what it is called with."""

    function: Any
    """As `triton.jit` made it."""
    tensors: tuple[str, ...]
    """Its pointers to tensors of the type that it computes in; `keep` points to int8, `parts` to float32."""
    more: tuple[tuple[str, int], ...] = ()
    """Constants of its own, beside those of all (`launch.settings`)."""

    @property
    def masks(self) -> bool:
        """Whether it can leave out elements."""
        return "keep" in self.tensors

    def signature(self, dtype: str) -> dict[str, str]:
        """The type of each argument, as Triton writes them, for tensors of `dtype` (`bf16`)."""
        kinds = {"keep": "*i8", "parts": "*fp32"}
        found = {}
        for name in self.function.arg_names:
            if name in self.tensors:
                found[name] = kinds.get(name, f"*{dtype}")
            else:
                found[name] = "constexpr" if name.isupper() else "i32"
        return found

    def constants(self, rank: int, *, masked: bool = False) -> dict[str, Any]:
        """Its constants for updates of this rank."""
        masks = {"MASKED": masked} if self.masks else {}
        return {**settings(rank), **masks, **dict(self.more)}


KERNELS = {
    "down": Kernel(down.down_kernel, ("x", "keep", "a", "low")),
    "add_up": Kernel(add_up.add_up_kernel, ("y", "low", "up")),
    "down_up": Kernel(down_up.down_up_kernel, ("y", "x", "keep", "a", "up", "low")),
    "grad_input": Kernel(grad_input.grad_input_kernel, ("grad", "keep", "a", "grad_x")),
    "grad_down": Kernel(
        grad_down.grad_down_kernel,
        ("grad", "x", "keep", "parts"),
        (("BLOCKS", grad_down.BLOCKS_OF_A_PART),),
    ),
}
