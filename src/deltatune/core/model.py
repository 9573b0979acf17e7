"""AdaptedModel: a frozen base with adapters that come and go."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from deltatune import quant
from deltatune.core import compose
from deltatune.core.adapter import Adapter
from deltatune.core.attention import EAGER_UP_TO
from deltatune.core.devices import own_random_states
from deltatune.core.fast.labelled_head import labelled_inputs
from deltatune.core.fast.paths import FastPaths
from deltatune.core.fold import fold_routes_into_, require_foldable
from deltatune.core.generation import generate_behind_prompt
from deltatune.core.holding import attribute_unless_of_trainers, require_alone, require_base
from deltatune.core.hooks import Hooks
from deltatune.core.method import MethodConfig
from deltatune.core.new_heads import add_heads
from deltatune.core.sites import BaseView
from deltatune.core.swap import OwnParameters
from deltatune.core.taps import Active, Route
from deltatune.core.text_vectors import text_vectors
from deltatune.core.whole import is_sharded
from deltatune.errors import AdapterError, nearest


class AdaptedModel(nn.Module):
    """A Transformers model that stays as it is, and the adapters attached to it.

    The base's classes, parameter names and bytes are not altered: deltas hang on forward hooks, learned keys
    and values on Transformers' attention table, or on stand-ins where a class does not ask it. `detach`
    leaves nothing behind. Which adapters act is one state, so only one thread at a time may use a model.

    Args:
        base: A Transformers model. It stays frozen and in eval mode, also when all adapters are detached.
        heads: Paths of newly initialised modules (a classifier); every adapter trains a copy of its own.
        processor: The base's tokenizer or image processor; only a prompt that starts from a text needs it.
        original: Of a quantized base: reads the weight [d_out, d_in] that the module at a path had before;
            only methods that start from what quantizing took away need it.
        base_dropout: Whether the frozen base drops activations in training, as its pretraining did.
        eager_up_to: Training on a CPU, rows of at most so many tokens (in bfloat16 more) are attended to by
            matrix products in place of SDPA, whose backward pass is slow there. 0: never.
        pooling: How vectors of texts are made of their tokens' states: `mean`, `cls` or `last`.
    """

    def __init__(
        self,
        base: nn.Module,
        heads: Sequence[str] = (),
        *,
        processor: Any = None,
        original: Callable[[str], Tensor] | None = None,
        base_dropout: bool = False,
        eager_up_to: int = EAGER_UP_TO,
        pooling: str = "mean",
    ) -> None:
        require_base(base)
        super().__init__()
        self.base: Any = base.requires_grad_(False).eval()
        quant.settle_(base)
        self.view = BaseView(base, heads, processor, original=original, without_adapters=self.using)
        self.adapters = nn.ModuleDict()
        self.configs: dict[str, MethodConfig] = {}
        self.base_dropout, self.pooling, self.is_sharded = base_dropout, pooling, is_sharded(base)
        self._active, self._own = Active(), OwnParameters(base)
        self._hooks = Hooks(self.view, self._active)
        self.fast = FastPaths(self.view, self._hooks.attention, eager_up_to)
        self.eval()  # as `from_pretrained` leaves a model; training switches dropout on, nothing else does

    __getattr__ = attribute_unless_of_trainers

    def save(self, folder: str | Path, name: str | None = None) -> None:
        """Write an adapter (the active one) to `folder`: peft's files, where peft has the method.

        Raises:
            AdapterError: Several adapters are active and none was named.

        Warns:
            UserWarning: The method's schedule has not run to its end (AdaLoRA's ranks, for example).
        """
        from deltatune.checkpoint.store import save_adapter

        if name is None and len(self.active) != 1:
            raise AdapterError(f"{len(self.active)} adapters are active.", remedy="Name the one to save.")
        name = name or self.active[0]
        self.adapter(name).warn_unsettled(self.configs[name].name)
        save_adapter(self, name, Path(folder))

    def load(self, folder: str | Path, name: str = "default") -> None:
        """Attach the delta that deltatune or peft saved in `folder`, and make it the active one.

        Raises:
            AdapterError: It is damaged or of a base of another structure; the model is left as it was. What
                loads a run (`evaluate`, `predict`, `merge`) compares the base's hash as well.
        """
        from deltatune.checkpoint.store import load_adapter

        load_adapter(self, Path(folder), name)

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.view.device

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the adapters that act at present."""
        return tuple(dict.fromkeys(route.name for route in self._active.routes))

    def adapter(self, name: str) -> Adapter:
        """The adapter called `name`.

        Raises:
            AdapterError: There is none.
        """
        if name not in self.adapters:
            raise AdapterError(f"no adapter {name!r} is attached.", remedy=nearest(name, self.adapters))
        adapter = self.adapters[name]
        assert isinstance(adapter, Adapter)
        return adapter

    def attach(
        self, name: str, config: MethodConfig, *, seed: int = 0, heads: Sequence[str] | None = None
    ) -> Adapter:
        """Build the adapter of `config`, hang it on the base and make it the active one.

        Args:
            name: Letters, digits, `_` and `-`.
            config: The method and its settings.
            seed: Seed of the initial values and of all randomness in training.
            heads: Modules to have whole in a copy, which is trained if the method trains anything; by default
                the base's newly initialised ones, unless the method acts on them itself.

        Raises:
            AdapterError: The name is taken or has other characters, or another model's act on the base.
            TargetError: The base lacks what the method acts on.
        """
        if hasattr(self.adapters, name) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise AdapterError(
                f"{name!r} cannot be the name of a new adapter.",
                remedy="Use letters, digits, '_' and '-', and a name that is not taken or one of Python's.",
            )
        require_alone(self.base, self._active, (name,))
        # Without any adapter in force, so that nothing of another one gets into the start of this one.
        with self.using(), own_random_states():
            torch.manual_seed(seed)
            adapter = config.build(self.view)
            if heads is None:
                heads = () if adapter.own else self.view.heads
            add_heads(adapter, self.view, heads, trained=config.trains)
        adapter.bind(seed, self.view.input_of)
        adapter.to(self.device)
        try:
            self._hooks.hang(name, adapter)
        except BaseException:
            self._hooks.take_off(name)
            raise
        self.adapters[name], self.configs[name] = adapter, config
        adapter.train(self.training)
        self.use(name)
        return adapter

    def detach(self, name: str) -> Adapter:
        """Take the adapter off the base and return it. Taps that nobody needs any more are removed."""
        adapter = self.adapter(name)
        self._set_routes(tuple(r for r in self._active.routes if r.name != name))
        self._hooks.take_off(name)
        del self.adapters[name], self.configs[name]
        return adapter

    def use(self, *names: str | Mapping[str, float]) -> None:
        """Let the named adapters act on all rows. Without names the plain base answers.

        Names act one on the other's result, in this order. One mapping from names to weights lets them act
        side by side: each site returns y + sum_i w_i (delta_i(x, y) - y), where y is the frozen output; what
        deltas make of a site's input is summed likewise. Equal weights that sum to 1 are the average.

        Raises:
            AdapterError: A name is not attached, or they cannot act together.
        """
        self._set_routes(compose.all_rows(names, self.adapter))

    def _set_routes(self, routes: tuple[Route, ...]) -> None:
        require_alone(self.base, self._active, routes)
        self._active.routes = routes
        self._own.restore()
        for route in routes:
            self._own.put(self.adapter(route.name).own)

    @contextlib.contextmanager
    def using(self, *names: str | Mapping[str, float]) -> Iterator[None]:
        """Within the block the named adapters act as after `use`; afterwards those from before."""
        before = self._active.routes
        self.use(*names)
        try:
            yield
        finally:
            self._set_routes(before)

    @contextlib.contextmanager
    def routing(self, rows: Mapping[str, slice], batch_rows: int) -> Iterator[None]:
        """Within the block each adapter acts on its own rows of the batch only.

        The backward pass belongs inside the block, since gradient checkpointing runs the taps again.

        Args:
            rows: Adapter name -> its slice of rows, with start and stop; slices do not overlap.
            batch_rows: Rows of the whole batch.

        Raises:
            DeltatuneError: Slices overlap or leave the batch, or an adapter cannot be routed.
        """
        with self._routed(compose.own_rows(rows, batch_rows, self.adapter), batch_rows):
            yield

    @contextlib.contextmanager
    def switching(self, adapters: Sequence[str | None]) -> Iterator[None]:
        """Within the block each row of a batch goes to the adapter that it names, in any order.

        Args:
            adapters: For each row the name of an adapter, or None for the plain base.

        Raises:
            DeltatuneError: A name is not attached, or an adapter cannot act on some rows only.
        """
        with self._routed(compose.row_by_row(adapters, self.adapter), len(adapters)):
            yield

    @contextlib.contextmanager
    def _routed(self, routes: tuple[Route, ...], batch_rows: int) -> Iterator[None]:
        before, self._active.batch_rows = self._active.routes, batch_rows
        self._set_routes(routes)
        cut = [self.adapter(route.name) for route in routes]
        for adapter in cut:
            adapter.cut(True)
        try:
            with self.fast.packing.use(False):  # nobody could tell whose a token is
                yield
        finally:
            for adapter in cut:
                adapter.cut(False)
            self._active.batch_rows = None
            self._set_routes(before)

    def train(self, mode: bool = True) -> AdaptedModel:
        """Switch the adapters; the base follows only if its dropout is wanted."""
        super().train(mode)
        if not self.base_dropout:
            self.base.eval()
        self.fast.recomputation.follow(mode)
        return self

    def forward(self, *, adapters: Sequence[str | None] | None = None, **batch: Any) -> Any:
        """The base's forward pass with the active adapters; its arguments and result are the base's own.

        Args:
            adapters: For each row the adapter that acts (None: none), instead of the active ones.
            batch: The base's arguments.
        """
        if adapters is not None:
            compose.require_rows(adapters, batch)
            with self.switching(adapters):
                return self(**batch)
        if not self.training:
            return self.base(**batch)
        for name in self.active:
            self.adapter(name).clock.tick += 1
        with self.fast.training(batch):
            return self.base(**batch)

    def encoder_states(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """What an encoder-decoder base's encoder makes of a batch without labels, [rows, length, d_model].

        None of other bases. Deltas act and prompts are included. `generate` takes it in `encoder_outputs`.
        """
        if not self.view.is_encoder_decoder:
            return None
        states: Tensor = self.base.get_encoder()(**batch, return_dict=True).last_hidden_state
        return states

    def labelled_logits(
        self, batch: Mapping[str, Tensor], states: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits at the labelled positions only: a language model's output head sees no others.

        Args:
            batch: The collated batch; `labels` [rows, length], best on the host, hold -100 but at targets.
            states: What `encoder_states` gave for this batch; by default the encoder runs.

        Returns:
            (logits [n_labelled, vocabulary or classes], targets [n_labelled]), row after row.
        """
        labelled, language = labelled_inputs(self.view, batch, states), not self.view.labels_tokens
        # Other heads have few outputs. Chosen positions have no rows, by which routes are told.
        chooses = language and not (self._active.batch_rows is not None and self._hooks.act_at_head())
        chosen = self.fast.at_labels(labelled) if chooses else contextlib.nullcontext()
        with chosen, self._hooks.padding_told(batch):
            logits: Tensor = self(**labelled.inputs, **({"use_cache": False} if language else {})).logits
        return logits if chooses else labelled.of(logits), labelled.targets

    def class_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Logits [rows, classes] of a classifier, for a batch with or without `labels`."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        rows = len(next(iter(inputs.values())))
        with self.fast.last_layer.at_first(rows), self._hooks.padding_told(batch):
            logits: Tensor = self(**inputs).logits
        return logits

    def text_vectors(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Unit vectors [rows, texts, width] of texts whose `input_ids` are [rows, texts, length]."""
        return text_vectors(self, batch, self._hooks)

    @property
    def may_drop_rows(self) -> bool:
        """Whether `generate` can go on with some rows: not if routed, behind a cached prompt, or sharded."""
        return self._active.batch_rows is None and self._hooks.prompt is None and not self.is_sharded

    @property
    def prompted_mask(self) -> Tensor | None:
        """Mask [rows, n + length] of the latest text that prompts were put into; None if none acts."""
        return None if self._hooks.prompt is None else self._hooks.prompt.mask

    def behind_prompts(self) -> contextlib.AbstractContextManager[None]:
        """Within the block no prompt is put in, since the cache of a pass holds them already."""
        return self._active.suspension()

    @torch.inference_mode()
    def generate(self, *, adapters: Sequence[str | None] | None = None, **arguments: Any) -> Any:
        """`generate` of the base with the active adapters; takes the base's arguments.

        Args:
            adapters: For each row the adapter that acts on it (None: none), instead of the active ones.
            arguments: The base's arguments.

        Returns:
            Token ids [rows, length] (or Transformers' output with them as `sequences`); for decoder-only
            models the input comes first, as Transformers has it.
        """
        if adapters is not None:
            compose.require_rows(adapters, arguments)
            with self.switching(adapters):
                return self.generate(**arguments)
        arguments |= {"synced_gpus": True} if self.is_sharded else {}  # others may have more to write
        if self.view.is_encoder_decoder or (prompt := self._hooks.prompt) is None:
            return self.base.generate(**arguments)
        return generate_behind_prompt(self.base, prompt, arguments)

    @torch.no_grad()
    def merged(self, *names: str | Mapping[str, float]) -> nn.Module:
        """A copy of the base with adapters written into its weights: the active ones, or as `use` takes them.

        Where a delta acts on one of several modules whose weights are tied, the copy's are not tied.

        Raises:
            AdapterError: A delta has no equivalent in the weights (prompts, learned keys and values), or the
                base is quantized.
        """
        require_foldable(self.base)
        routes = compose.all_rows(names, self.adapter) if names else self._active.routes
        model = self.plain_base()
        fold_routes_into_(model, [(route, self.adapter(route.name)) for route in routes])
        return model

    def plain_base(self) -> nn.Module:
        """The base as it was before any adapter, for copying: no hooks, original attention and parameters."""
        active, recomputed = self._active.routes, self.fast.recomputation.enabled
        self._set_routes(())
        self.fast.recomputation.off()
        try:
            with self._hooks.off():
                plain: nn.Module = copy.deepcopy(self.base).eval()
                plain.__dict__.pop("forward", None)  # a trainer's own, which would go on computing this base
        finally:
            self.gradient_checkpointing(recomputed)
            self._set_routes(active)
        return plain

    def fired(self) -> dict[str, int]:
        """How often each tap of the active adapters has acted so far, by site. Zero means it is inert."""
        return self._hooks.fired()

    def gradient_checkpointing(self, enabled: bool = True) -> None:
        """Trade time for memory: keep only each layer's input and compute the rest again in backward.

        Raises:
            TargetError: The base has no layers that Transformers can checkpoint.
        """
        self.fast.recomputation.off()
        if enabled:
            self.fast.recomputation.on(keep_eval=not self.base_dropout)
        self.train(self.training)
