"""What hangs on a base for its adapters: taps at modules, attention, positions and the embedded input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from deltatune.core.adapter import Adapter
from deltatune.core.answers import AnswersTap
from deltatune.core.attention import AttentionSwitch, AttentionTap
from deltatune.core.fast.padding import padding_told
from deltatune.core.positions import PositionTap
from deltatune.core.prompts import PromptTap
from deltatune.core.sites import BaseView
from deltatune.core.taps import Active, ModuleTap


class Hooks:
    """The taps on one base. Each is there as long as an adapter needs it.

    Args:
        view: The base.
        active: Which adapters act; read by the taps at every call.
    """

    def __init__(self, view: BaseView, active: Active) -> None:
        self._view = view
        self._active = active
        self._adapters: dict[str, Adapter] = {}
        self._modules: dict[str, ModuleTap] = {}
        self._attentions: dict[str, AttentionTap] = {}
        self._position: PositionTap | None = None
        self._prompt: PromptTap | None = None
        self._answers: AnswersTap | None = None
        self.attention = AttentionSwitch(view.base)

    def padding_told(self, batch: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """As `padding_told`, unless prompts of different lengths pad rows that were not."""
        apart = self._active.batch_rows is not None and self._prompt is not None
        return contextlib.nullcontext() if apart else padding_told(batch)

    def hang(self, name: str, adapter: Adapter) -> None:
        """Let an adapter act wherever it has something, while its name is among the active ones."""
        self._adapters[name] = adapter
        for path, delta in adapter.deltas.items():
            if path not in self._modules:
                self._modules[path] = ModuleTap(path, self._view.modules[path], self._active)
            self._modules[path].deltas[name] = delta
        for path, keys_values in adapter.keys_values.items():
            if path not in self._attentions:
                self._attentions[path] = AttentionTap(
                    path, self._view.modules[path], self._active, self._view.biased_by_distance(path)
                )
            self._attentions[path].keys_values[name] = keys_values
        if adapter.keys_values:
            self.attention.on()
        if adapter.position_shift:
            self._position = self._position or PositionTap(self._view, self._active)
            self._position.shifts[name] = adapter.position_shift
        if adapter.prompt is not None:
            self._prompt = self._prompt or PromptTap(self._view, self._active)
            self._prompt.prompts[name] = adapter.prompt
        if adapter.reads_states:
            self._answers = self._answers or AnswersTap(self._view, self._active)
            self._answers.adapters[name] = adapter
            self._view.read_whole = True

    def take_off(self, name: str) -> None:
        """Take an adapter off, and the taps that nobody needs any more."""
        self._adapters.pop(name, None)
        for taps, attribute in ((self._modules, "deltas"), (self._attentions, "keys_values")):
            for path in list(taps):
                held = getattr(taps[path], attribute)
                held.pop(name, None)
                if not held:
                    taps.pop(path).remove()
        if not self._attentions:
            self.attention.off()
        if self._position is not None:
            self._position.shifts.pop(name, None)
            if not self._position.shifts:
                self._position.remove()
                self._position = None
        if self._prompt is not None:
            self._prompt.prompts.pop(name, None)
            if not self._prompt.prompts:
                self._prompt.remove()
                self._prompt = None
        if self._answers is not None:
            self._answers.adapters.pop(name, None)
            if not self._answers.adapters:
                self._answers.remove()
                self._answers, self._view.read_whole = None, False

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Within the block nothing hangs on the base."""
        hung = dict(self._adapters)
        for name in hung:
            self.take_off(name)
        try:
            yield
        finally:
            for name, adapter in hung.items():
                self.hang(name, adapter)

    @property
    def prompt(self) -> PromptTap | None:
        """The tap that puts prompts before the embedded input, if an active adapter has one."""
        tap = self._prompt
        return tap if tap is not None and self._active.of(tap.prompts) else None

    def act_at_head(self) -> bool:
        """Whether an adapter acts on the base's output head."""
        return self.act_at(self._view.base.get_output_embeddings())

    def act_at(self, module: nn.Module) -> bool:
        """Whether active adapters have a delta at this very module."""
        taps = (tap for path, tap in self._modules.items() if self._view.modules[path] is module)
        return any(self._active.of(tap.deltas) for tap in taps)

    def fired(self) -> dict[str, int]:
        """How often each tap of the active adapters has acted so far, by site."""
        counts = {p: t.calls for p, t in self._modules.items() if self._active.of(t.deltas)}
        counts |= {p: t.calls for p, t in self._attentions.items() if self._active.of(t.keys_values)}
        if self.prompt is not None:
            counts["prompt"] = self.prompt.calls
        return counts
