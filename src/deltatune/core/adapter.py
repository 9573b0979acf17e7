"""Adapter: everything that one method trains in one base."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from deltatune.core.delta import Clock, Delta, Dropout, ModuleCopy, Noise
from deltatune.core.low_rank import Downward, SharedInput
from deltatune.errors import AdapterError

if TYPE_CHECKING:
    from deltatune.core.beside import Beside
    from deltatune.tasks.task import Row

_ANOTHER = (
    "Either the delta was trained on another model than this, or its files no longer fit each other: "
    "copy them again."
)


class Extent(NamedTuple):
    """How much a saved delta holds."""

    numbers: int
    bytes: int


class KeysValues(nn.Module):
    """Learned keys and values that one attention site sees before those of the input."""

    placed = False
    """Whether they stand at the positions before the input's first, so that a position bias acts on them."""

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return (keys, values), each [kv_heads, n_tokens, head_dim]."""
        raise NotImplementedError


class Prompt(nn.Module):
    """Learned vectors put before the embedded input."""

    behind: tuple[tuple[int, ...], ...] | None = None
    """Beginnings of an input, as token ids, that the vectors stand behind (the longest that fits): where a
    text at the start of the input would stand, after `[CLS]`. None puts them before everything."""

    def forward(self) -> Tensor:
        """Return the vectors, [n_tokens, d_model]."""
        raise NotImplementedError


class Adapter(nn.Module):
    """All deltas of one method on one base.

    Args:
        deltas: Module path -> delta at that module.
        keys_values: Attention module path -> learned keys and values there.
        prompt: Learned vectors at the input.
        own: Parameter path -> trainable stand-in for that parameter of the base (full fine-tuning).
        position_shift: Positions that the learned keys take up before the first one of what is generated
            from: of the input in decoder-only models, of the decoder's in others.

    The trainer treats every adapter alike: `start` once, then `penalty`, `before_step` and `after_step` on
    every step, and `finish` at the end. A method with a schedule overrides them; the others inherit the empty
    ones.
    """

    reads_states = False
    """Whether it gives the outputs of the base's head in place of that, by `logits_of`."""

    def __init__(
        self,
        deltas: Mapping[str, Delta] | None = None,
        keys_values: Mapping[str, KeysValues] | None = None,
        prompt: Prompt | None = None,
        own: Mapping[str, nn.Parameter] | None = None,
        position_shift: int = 0,
    ) -> None:
        super().__init__()
        self.deltas = dict(deltas or {})
        self.keys_values = dict(keys_values or {})
        self.own = dict(own or {})
        self.prompt = prompt
        self.position_shift = position_shift
        self.clock = Clock()
        self._inputs: list[SharedInput] = []
        # Paths hold dots, which module names may not; the lists only register what the mappings name.
        self._delta_list = nn.ModuleList(self.deltas.values())
        self._keys_values_list = nn.ModuleList(self.keys_values.values())
        self._own_list = nn.ParameterList(self.own.values())

    def add(self, path: str, delta: Delta) -> None:
        """Add a delta at the module `path`."""
        self.deltas[path] = delta
        self._delta_list.append(delta)

    def bind(self, seed: int, input_of: Callable[[str], str]) -> None:
        """Give every source of randomness its clock and its name, and join the deltas that share an input.

        Args:
            seed: Of all randomness.
            input_of: Module path -> name of what the module gets.
        """
        self.clock.seed = seed
        groups: dict[tuple[str, type], list[Downward]] = {}
        for path, delta in self.deltas.items():
            for module in delta.modules():
                if isinstance(module, Noise):
                    module.bind(self.clock, input_of(path) if isinstance(module, Dropout) else path)
            if isinstance(delta, Downward):
                groups.setdefault((input_of(path), type(delta)), []).append(delta)
        self._inputs = [SharedInput(members) for members in groups.values()]
        for shared in self._inputs:
            for member in shared.members:
                member.shared = shared

    def cut(self, rows: bool) -> None:
        """Say whether sites get rows cut out of their input, so that no two have it in common."""
        for shared in self._inputs:
            shared.apart = rows

    def forget_pass(self, tick: int) -> None:
        """Undo what a pass has left, one that broke off too: gradients, parts of an input, the clock."""
        for _, parameter in self.trainable():
            parameter.grad = None
        for shared in self._inputs:
            shared.forget()
        self.clock.tick = tick

    def see_classes(self, rows: Sequence[int], of: int) -> None:
        """Learn how many training rows each class of a classification has, before anything else.

        Args:
            rows: By the class's number.
            of: All training rows; where a row may have several labels, the others add up to another number.
        """

    @property
    def beside(self) -> Beside | None:
        """What a method that trains nothing knows of rows from their texts, if it does."""
        return None

    def see_rows(
        self, rows: Sequence[Row], batches: Callable[[], Iterable[tuple[Sequence[int], dict[str, Tensor]]]]
    ) -> None:
        """Learn the training rows, before anything else and behind `see_classes`.

        Args:
            rows: All of them.
            batches: Gives numbers of rows and their batch, with labels, on the base's device; every row once.

        Raises:
            DataError: They are of no use to the method.
        """

    def logits_of(self, vectors: Tensor, logits: Tensor) -> Tensor:
        """What stands in the place of the base's logits.

        Args:
            vectors: Of the rows [rows, width], of length 1: the mean of the last states of a text's tokens,
                or the state of an image.
            logits: The base's [rows, outputs].
        """
        raise NotImplementedError

    def start(self, total_steps: int) -> None:
        """Learn the number of optimizer steps of the run before its first one.

        Raises:
            RecipeError: The method's schedule does not fit into so few steps.
        """

    def penalty(self) -> Tensor | None:
        """A regularisation term added to the loss, or None."""
        return None

    def before_step(self, step: int, loss: Callable[[], float]) -> None:
        """Act between the backward pass and optimizer step `step` (1, 2, ...).

        Args:
            step: Number of the step to come.
            loss: Gives the loss of the step's batch with the parameters as they are at the call, without
                gradients: how a discrete search judges its candidates.
        """

    def after_step(self, step: int) -> dict[str, float]:
        """Act after optimizer step `step` (1, 2, ...), while the gradients are still there.

        Returns:
            Numbers worth recording, such as the present rank budget.
        """
        return {}

    @property
    def settled(self) -> bool:
        """Whether the present state may be selected as the result; a schedule says no before its end."""
        return True

    def warn_unsettled(self, method: str) -> None:
        """Say so if it is saved before its schedule has run to its end, to who calls who calls this.

        Warns:
            UserWarning: It is.
        """
        if not self.settled:
            warnings.warn(
                f"The schedule of {method} has not run to its end, so this is not yet what "
                "the method promises. In a loop of your own call adapter.start(steps) first, before_step and "
                "after_step around each step of the optimizer, and add penalty() to the loss.",
                stacklevel=3,
            )

    def finish(self) -> dict[str, float]:
        """Check at the end of the run that the method did what it promises; return what it reached.

        Raises:
            TrainingError: It did not.
        """
        return {}

    def describe(self) -> str | None:
        """Say what was learned, if it can be read by people; shown at the end of a run."""
        return None

    def resume_state(self) -> dict[str, Any]:
        """State beyond the parameters that a continued run needs: tensors, numbers, lists, dicts of them."""
        return {"tick": self.clock.tick}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """Take what `resume_state` gave."""
        self.clock.tick = int(state["tick"])

    def lr_factor(self, name: str) -> float:
        """Factor on the learning rate of the parameter `name` (a name that `trainable` gives).

        It may change between steps, if parameters with equal factors at the start always have equal ones.
        """
        return 1.0

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name and parameter of everything that is trained."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name and module of every part whose effect can be checked on its own."""
        yield from self.deltas.items()
        yield from self.keys_values.items()
        if self.prompt is not None:
            yield "prompt", self.prompt

    def stored(self) -> dict[str, Tensor]:
        """Tensors that make up the saved delta, by path and name; what only training needs is left out."""
        tensors = {
            f"{path}.{name}": tensor
            for path, delta in self.deltas.items()
            for name, tensor in delta.stored().items()
        }
        for path, module in self.keys_values.items():
            keys, values = module()
            tensors[f"{path}.prefix_keys"] = keys
            tensors[f"{path}.prefix_values"] = values
        if self.prompt is not None:
            tensors["prompt_embeddings"] = self.prompt()
        tensors.update(self.own)
        return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}

    def extent(self) -> Extent:
        """What the saved delta will hold at the end of a run, so far as the settings tell."""
        return extent_of(self.stored().values())

    def extent_besides(self, paths: Container[str]) -> Extent:
        """That of all deltas but those at `paths`."""
        rest = (delta for path, delta in self.deltas.items() if path not in paths)
        return extent_of(tensor for delta in rest for tensor in delta.stored().values())

    @torch.no_grad()
    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave.

        Raises:
            AdapterError: A tensor is missing, left over or of another shape; nothing is loaded then.
        """
        mine = self.stored()
        missing, extra = sorted(mine.keys() - tensors.keys()), sorted(tensors.keys() - mine.keys())
        if missing or extra:
            raise AdapterError(
                f"the file's tensors do not fit this base: {len(missing)} missing (first: {missing[:2]}), "
                f"{len(extra)} unexpected (first: {extra[:2]}).",
                remedy=_ANOTHER,
            )
        for name, tensor in tensors.items():
            if tensor.shape != mine[name].shape:
                raise AdapterError(
                    f"{name} has the shape {list(tensor.shape)}; this base needs {list(mine[name].shape)}.",
                    remedy=_ANOTHER,
                )
        for path, delta in self.deltas.items():
            names = delta.stored().keys()
            delta.load_stored({name: tensors[f"{path}.{name}"] for name in names})
        self._load_virtual_tokens(tensors)
        for path, parameter in self.own.items():
            parameter.copy_(tensors[path])

    def _load_virtual_tokens(self, tensors: Mapping[str, Tensor]) -> None:
        """Load keys, values and prompt. Methods that train a generator of them load the generated ones."""
        for path, module in self.keys_values.items():
            load_into(module, tensors[f"{path}.prefix_keys"], tensors[f"{path}.prefix_values"])
        if self.prompt is not None:
            load_into(self.prompt, tensors["prompt_embeddings"])

    def heads(self) -> list[str]:
        """Paths of the modules that are trained as a whole."""
        return [path for path, delta in self.deltas.items() if isinstance(delta, ModuleCopy)]


def extent_of(tensors: Iterable[Tensor]) -> Extent:
    """Numbers and bytes of tensors."""
    sizes = [(tensor.numel(), tensor.element_size()) for tensor in tensors]
    return Extent(sum(count for count, _ in sizes), sum(count * size for count, size in sizes))


def load_into(module: nn.Module, *tensors: Tensor) -> None:
    """Copy `tensors` into the parameters of `module`, in their order.

    Raises:
        AdapterError: The module computes its output from other parameters (a reparameterisation), so the
            output alone cannot be loaded into it.
    """
    parameters = list(module.parameters())
    if [p.shape for p in parameters] != [t.shape for t in tensors]:
        raise AdapterError(
            "a saved delta cannot be loaded into a reparameterised one.",
            remedy="Attach the method with its reparameterisation off; the saved values are its output.",
        )
    for parameter, tensor in zip(parameters, tensors, strict=True):
        parameter.data.copy_(tensor)
