"""Delta: one trainable intervention at one module of the base."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deltatune.core.fast.layout import layout
from deltatune.core.whole import gathered
from deltatune.errors import AdapterError


class Clock:
    """Counts the forward passes of one adapter, so that its randomness is a function of time, not of history.

    Dropout masks are drawn from (seed, input, tick). Recomputing a layer under gradient checkpointing,
    resuming a run and training next to other runs therefore all draw the same masks.
    """

    def __init__(self, seed: int = 0) -> None:
        self.numbers = np.array([seed, 0])
        """Seed and tick: as an array, a compiled graph reads them anew in each pass."""

    @property
    def seed(self) -> int:
        """Of all its randomness."""
        return int(self.numbers[0])

    @seed.setter
    def seed(self, seed: int) -> None:
        self.numbers[0] = seed

    @property
    def tick(self) -> int:
        """Passes so far."""
        return int(self.numbers[1])

    @tick.setter
    def tick(self, tick: int) -> None:
        self.numbers[1] = tick


def _drawn(seeds: tuple[int, int, int], n: int, device: torch.device) -> Tensor:
    """The numbers of `Noise.words`."""
    seed = hash(seeds) & (2**63 - 1)
    count = max(1, (n + 3) // 4)  # even if none is wanted: a part of a batch may be empty
    if device.type == "cpu":  # numpy's generator takes less than half the time of torch's
        words = torch.from_numpy(np.random.SFC64(seed).random_raw(count).view(np.int64))
    else:
        generator = torch.Generator(device)
        generator.manual_seed(seed)
        words = torch.empty(count, dtype=torch.int64, device=device)
        words.random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:n]


@torch.library.custom_op("deltatune::words", mutates_args=())
def _words(now: Tensor, stream: Tensor, n: int, device: torch.device) -> Tensor:
    """The same as an operation that torch.compile does not look into."""
    seed, tick = now.tolist()
    return _drawn((seed, int(stream), tick), n, device).clone()  # an operation may not return a part


@_words.register_fake
def _(now: Tensor, stream: Tensor, n: int, device: torch.device) -> Tensor:
    return torch.empty(n, dtype=torch.int16, device=device)


class Noise(nn.Module):
    """Random numbers that depend only on the clock and a name, of a site or of the input of several.

    They are cut from 64-bit random words as 16-bit numbers: the samplers of floating-point numbers are
    single-threaded on CPUs and would dominate a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.stream, self._stream = 0, torch.tensor(0)

    def bind(self, clock: Clock, name: str) -> None:
        """Use `clock`, and draw numbers of `name`'s own."""
        self.clock = clock
        self.stream = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest(), "big")
        self._stream = torch.tensor(self.stream)

    def words(self, n: int, device: torch.device) -> Tensor:
        """Draw [n] numbers, uniform over the values of int16. The same tick gives the same numbers."""
        if torch.compiler.is_compiling():
            return _words(torch.from_numpy(self.clock.numbers), self._stream, n, device)
        return _drawn((self.clock.seed, self.stream, self.clock.tick), n, device)

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """Draw [n] float32 numbers from (0, 1), both ends left out, in steps of 2^-16."""
        return (self.words(n, device).float() + (2**15 + 0.5)) / 2**16


class Dropout(Noise):
    """Inverted dropout whose mask depends only on the clock and the input's name.

    The keep probability is a multiple of 2^-16, and the rescaling uses it exactly.

    Args:
        p: Probability of zeroing an element, in [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    @property
    def scale(self) -> float:
        """Factor on what is kept; 1 where all is kept (in eval mode)."""
        return 2**16 / (2**16 - self._dropped) if self._drops else 1.0

    @property
    def _drops(self) -> bool:
        return self.training and self.p > 0.0

    @property
    def _dropped(self) -> int:
        return round(self.p * 2**16)

    def keep(self, x: Tensor) -> Tensor | None:
        """Draw what `masked` keeps of `x`: -1 or 0 as int8, of `x`'s shape; None for all of it."""
        if not self._drops:
            return None
        # Whole numbers to the end: operations on booleans are not vectorized on CPUs.
        how, tokens = layout(), x.shape[:-1].numel()
        if how is not None and tokens in how.drawn:
            places, of = how.drawn[tokens]
            words = self.words(of * x.shape[-1], x.device).view(of, -1).index_select(0, places)
        else:
            words = self.words(x.numel(), x.device)
        return words.ge_(self._dropped - 2**15).to(torch.int8).neg_().view(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Zero elements of `x` (any shape) with probability `p` and scale the rest; identity in eval mode."""
        keep = self.keep(x)
        if keep is None:
            return x
        left: Tensor = _Masked.apply(x, keep)
        return left * self.scale


_SAME_WIDTH = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def masked(x: Tensor, keep: Tensor | None) -> Tensor:
    """What `keep` (-1 or 0 as int8, of `x`'s shape) leaves of `x`; all of it if it is None.

    By the bits, which takes half of the time of a product. Not differentiable.
    """
    if keep is None:
        return x
    bits = _SAME_WIDTH[x.element_size()]
    # Into the widened mask: a tensor of its own for the result takes twice as long, in float32.
    return keep.to(bits).bitwise_and_(x.view(bits)).view(x.dtype)


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(keep)
        return masked(x, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        [keep] = ctx.saved_tensors
        return masked(grad, keep), None


class Delta(nn.Module):
    """One trainable intervention at one module ("site") of the base.

    A subclass overrides `before` (what the site gets), `forward` (what it returns), or both. Its parameters
    bear the names under which they are stored.
    """

    def before(self, x: Tensor) -> Tensor:
        """Change the input `x` of the site; the default leaves it as it is."""
        return x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Change the output of the site.

        Args:
            x: What the site got, [rows, ..., d_in].
            y: What the frozen site (and the deltas before this one) returned, [rows, ..., d_out]. It may be
                overwritten.

        Returns:
            The new output, of `y`'s shape and dtype.
        """
        return y

    @classmethod
    def together(cls, deltas: Sequence[Delta], x: Tensor, y: Tensor) -> Tensor | None:
        """Do what `forward` does for several deltas at once, of which each has an equal share of the rows.

        Args:
            deltas: The one of the first rows first; the first is of this class.
            x: What the site got, [rows, ..., d_in].
            y: What it returned, [rows, ..., d_out]. It may be overwritten.

        Returns:
            The new output; or None, with `y` as it was, if they have to act one by one.
        """
        return None

    def stored(self) -> dict[str, Tensor]:
        """Tensors that are written to a file, by their name below the site's path."""
        return self.state_dict()

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave. Names and shapes must match exactly."""
        self.load_state_dict(dict(tensors))


@runtime_checkable
class Foldable(Protocol):
    """A delta that can be written into the weights of its site."""

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the new (weight, bias); the arguments are not changed."""
        ...


class BiasDelta(Delta):
    """A change of the bias of a linear layer, a norm or a convolution.

    Args:
        d: Width of the output.
        after: Dimensions of the output after its channels: two for a convolution of images.
    """

    def __init__(self, d: int, after: int = 0) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(d))
        self.after = after

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + db; y [..., d], or [rows, d, height, width] of a convolution."""
        return y + self.bias.to(y.dtype).view(-1, *[1] * self.after)

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight, bias + db).

        Raises:
            AdapterError: There is no bias. A new one would be lost when the model is saved and loaded.
        """
        if bias is None:
            raise AdapterError(
                "a trained bias cannot be written into weights of a layer that has none.",
                remedy="Keep it as an adapter.",
            )
        return weight, (bias.float() + self.bias.float()).to(bias.dtype)


class ModuleCopy(Delta):
    """A whole module trained in place of the base's: the new head of a classifier.

    The base's own module keeps its bytes; its output is replaced by the copy's. In peft's files these are the
    `modules_to_save`. Dropout inside it (RoBERTa's head has one) stays off, as the base's does: it would draw
    from the global generator.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.copy = _bare_copy(module).requires_grad_(True).eval()

    def train(self, mode: bool = True) -> Self:
        """Switch nothing inside the copy."""
        self.training = mode
        return self

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the copy's output for `x`, in `y`'s dtype."""
        weight = next(self.copy.parameters())
        output: Tensor = self.copy(x.to(weight.dtype) if x.is_floating_point() else x)
        return output.to(y.dtype)

    def stored(self) -> dict[str, Tensor]:
        """The copy's own state dict."""
        return self.copy.state_dict()

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the copy's state dict."""
        self.copy.load_state_dict(dict(tensors))


HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def _bare_copy(module: nn.Module) -> nn.Module:
    """A whole copy without the hooks: those of another adapter would go on acting inside this one's copy."""
    held = [(part, name, getattr(part, name)) for part in module.modules() for name in HOOKS]
    for part, name, _ in held:
        setattr(part, name, OrderedDict())
    try:
        with gathered(module):
            return copy.deepcopy(module)
    finally:
        for part, name, hooks in held:
            setattr(part, name, hooks)
