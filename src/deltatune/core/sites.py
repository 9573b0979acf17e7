"""Sites: from the selectors of a recipe to modules of a base."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from deltatune.core import roles
from deltatune.core.whole import gathered
from deltatune.errors import TargetError, nearest
from deltatune.quant import read_weight

LINEAR = (nn.Linear, Conv1D)
WEIGHTS_INSTEAD = "Choose a method that acts on weights, such as lora."
"""The remedy where a base has no place for learned vectors."""


@dataclass(frozen=True)
class AttentionSite:
    """An attention module, and the shape of its keys."""

    path: str
    module: nn.Module
    scope: str
    """`encoder`, `decoder` or `cross`."""
    kv_heads: int
    head_dim: int


class BaseView:
    """What a method may know of a base: its modules by role, and its shapes.

    Args:
        base: A Transformers model.
        heads: Paths of newly initialised modules; they are trained whole and never selected.
        processor: The base's tokenizer or image processor, for methods that start from a text.
        original: Of a quantized base: reads the weight [d_out, d_in] that the module at a path had before.
        without_adapters: Within its block the base answers as it came.
    """

    def __init__(
        self,
        base: Any,
        heads: Sequence[str] = (),
        processor: Any = None,
        *,
        original: Callable[[str], Tensor] | None = None,
        without_adapters: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.base = base
        self.processor = processor
        self.original = original
        self.without_adapters = without_adapters
        self.config = base.config
        self.heads = tuple(heads)
        self.model_type: str = self.config.model_type
        self.is_encoder_decoder = bool(getattr(self.config, "is_encoder_decoder", False))
        self.is_vision = getattr(base, "main_input_name", "input_ids") == "pixel_values"
        self.read_whole = False
        """Whether the last states of all positions are read, by an adapter that answers from them."""

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        device: torch.device = next(self.base.parameters()).device
        return device

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module of the base by path."""
        return dict(self.base.named_modules())

    @cached_property
    def is_decoder_only(self) -> bool:
        """Whether tokens see only earlier ones and there is no encoder."""
        return not self.is_encoder_decoder and not self.is_vision and not self._is_bert_like

    @property
    def labels_tokens(self) -> bool:
        """Whether the base tells of each token which class it is of, so that labels stand at the tokens."""
        return type(self.base).__name__.endswith("ForTokenClassification")

    @property
    def _is_bert_like(self) -> bool:
        kind = type(self.config)
        if kind in MODEL_FOR_MASKED_LM_MAPPING:
            return not getattr(self.config, "is_decoder", False)
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING or self.model_type in roles.TABLES:
            return False
        return any(path.endswith("attention.self") for path in self.modules)

    @property
    def backbone(self) -> nn.Module:
        """The module that turns the input into hidden states; of a causal model, the one its head calls."""
        if self.is_decoder_only:
            found: nn.Module = self.base.get_decoder()
        elif self.is_vision:  # CLIP's classifier is its own base model
            found = getattr(self.base, "vision_model", self.base.base_model)
        else:
            found = self.base.base_model
        return found

    @property
    def d_model(self) -> int:
        """Width of the embedded input.

        Raises:
            TargetError: It has no single one, as in convolutional networks and where layers merge patches.
        """
        text = self.config.get_text_config()
        config = getattr(self.config, "vision_config", self.config) if self.is_vision else text
        width = getattr(config, "d_model", 0) or getattr(config, "hidden_size", 0)
        if not width:
            raise TargetError(
                f"the layers of {self.model_type} have different widths, so that no learned vector or key "
                "fits all that they compute.",
                field="model",
                remedy=WEIGHTS_INSTEAD,
            )
        return int(width)

    @property
    def tokens(self) -> nn.Embedding:
        """The table of token embeddings of the input.

        Raises:
            TargetError: The base embeds its input in another way.
        """
        try:
            inner = self.base.get_encoder() if self.is_encoder_decoder else self.base.base_model
            table = inner.get_input_embeddings()
        except (NotImplementedError, AttributeError):  # Transformers looks for a module of a usual name
            table = None
        if not isinstance(table, nn.Embedding):
            raise TargetError(
                f"{self.model_type} has no plain table of token embeddings, beside which learned vectors "
                "could stand.",
                field="model",
                remedy=WEIGHTS_INSTEAD,
            )
        return table

    def scope(self, path: str) -> str:
        """`encoder`, `decoder` or `cross`."""
        return roles.scope_of(path, is_decoder_only=self.is_decoder_only)

    def input_of(self, path: str) -> str:
        """Name of what the module at `path` gets: one for query, key and value, one for a gate and its like.

        A cross-attention's query gets something else than its key and value, and has a name of its own.
        """
        attention = ("key", "value") if self.scope(path) == "cross" else ("query", "key", "value")
        for group in (attention, ("mlp_in",)):  # of general names nobody knows what they get
            if any(roles.patterns(self.model_type, role).search(f".{path}") for role in group):
                return f"{path.rpartition('.')[0]}|{group[-1]}"
        return path

    def by_role(self, role: str, scope: str | None = None) -> dict[str, nn.Module]:
        """Modules that play `role` (or any role of a group), within `scope` if one is given."""
        if role in roles.GROUPS:
            members = [self.by_role(member, scope) for member in roles.GROUPS[role]]
            found = {path: module for member in members for path, module in member.items()}
            return {path: found[path] for path in self.modules if path in found}
        found = self._players[role]
        return {path: m for path, m in found.items() if scope is None or self.scope(path) == scope}

    @cached_property
    def _players(self) -> dict[str, dict[str, nn.Module]]:
        """Modules by role and path."""
        linear = {p: m for p, m in self.modules.items() if isinstance(m, LINEAR) and self._is_open(p)}
        output = self.base.get_output_embeddings()
        found: dict[str, dict[str, nn.Module]] = {}
        for role in roles.ROLES:
            known = [roles.patterns(self.model_type, role)]
            known += [] if self.model_type in roles.TABLES else [roles.general(role)]
            fits: Iterator[dict[str, nn.Module]] = (
                {p: m for p, m in linear.items() if k.search(f".{p}") and m is not output} for k in known
            )
            found[role] = next((modules for modules in fits if modules), {})
        return found

    def select(
        self, selectors: Sequence[str], kinds: tuple[type[nn.Module], ...] = LINEAR
    ) -> dict[str, nn.Module]:
        """Modules that any of `selectors` names, in the order of the base.

        A selector is a role (`query`), a group (`attention`, `mlp`), either with a scope (`decoder.query`),
        `all-linear`, the end of module paths (`q_proj`, `SelfAttention.q`) or a glob over whole paths
        (`encoder.block.[0-3].*.q`).

        Raises:
            TargetError: A selector matches nothing; the message lists what would match.
        """
        chosen: set[str] = set()
        for selector in selectors:
            matches = self._matches(selector, kinds)
            if not matches:
                fused = any(".experts." in name for name, _ in self.base.named_parameters())
                raise TargetError(
                    f"{selector!r} matches no module of {self.model_type} that this method can act on"
                    f"{'; its experts are kept in one tensor, not in linear layers' if fused else ''}.",
                    field="targets",
                    remedy=nearest(selector, self._suggestions(kinds) - {selector}),
                )
            chosen |= matches
        return {path: module for path, module in self.modules.items() if path in chosen}

    def _matches(self, selector: str, kinds: tuple[type[nn.Module], ...]) -> set[str]:
        scope, _, role = selector.rpartition(".")
        if role in (*roles.ROLES, *roles.GROUPS) and scope in ("", *roles.SCOPES):
            players = set(self.by_role(role, scope or None))
            if players or role in roles.GROUPS:
                return players
        if selector in self.modules and not self._is_head(selector):  # this very one, wherever it is
            return {selector} if isinstance(self.modules[selector], kinds) else set()
        candidates = [p for p, m in self.modules.items() if isinstance(m, kinds) and self._is_open(p)]
        if selector == "all-linear":
            output = self.base.get_output_embeddings()
            return {
                p for p in candidates if isinstance(self.modules[p], LINEAR) and self.modules[p] is not output
            }
        if any(character in selector for character in "*?["):
            every = [p for p, m in self.modules.items() if isinstance(m, kinds) and not self._is_head(p)]
            return {p for p in every if fnmatch.fnmatchcase(p, selector)}
        return {p for p in candidates if f".{p}".endswith(f".{selector}")}

    def _is_head(self, path: str) -> bool:
        return any(path == head or path.startswith(f"{head}.") for head in self.heads)

    def _is_open(self, path: str) -> bool:
        """Whether a role, a group or the end of a path may mean the module at `path`.

        No head may, nor what a text does not pass through: the towers for images and sounds of a language
        model that has them.
        """
        within = self._language_model
        return not self._is_head(path) and (within is None or f"{path}.".startswith(within))

    @cached_property
    def _language_model(self) -> tuple[str, ...] | None:
        """Beginnings of the paths that a text passes through; None if it is the whole base."""
        if self.is_vision or self.config.get_text_config() is self.config or not self.is_decoder_only:
            return None
        inner, output = self.backbone, self.base.get_output_embeddings()
        return tuple(f"{path}." for path, m in self.modules.items() if path and m in (inner, output)) or None

    def _suggestions(self, kinds: tuple[type[nn.Module], ...]) -> set[str]:
        names = {p.rpartition(".")[2] for p, m in self.modules.items() if isinstance(m, kinds)}
        found = {role for role in roles.ROLES if self.by_role(role)}
        return names | found | {"all-linear"}

    def weight(self, path: str) -> Tensor:
        """The weight of the linear module at `path` as [d_out, d_in], whichever way round it is kept."""
        with gathered(self.modules[path]):
            return read_weight(self.modules[path])

    def attention_sites(self, scopes: Sequence[str] = roles.SCOPES) -> list[AttentionSite]:
        """Attention modules of the base within `scopes`, in order.

        They are the parents of the modules that play the role `key`, so a fused projection counts as well.

        Raises:
            TargetError: There is none.
        """
        sites: dict[str, AttentionSite] = {}
        for path in self.by_role("key"):
            parent = path.removesuffix(".linear").rpartition(".")[0]
            scope = self.scope(path)
            if scope in scopes:
                module = self.modules[parent]
                heads, width = self._key_shape(module)
                sites[parent] = AttentionSite(parent, module, scope, heads, width)
        if not sites:
            present = sorted({self.scope(path) for path in self.by_role("key")})
            if not present:
                raise TargetError(
                    f"{self.model_type} has no attention, or none that is known, which learned keys and "
                    "values could be put into.",
                    field="model",
                    remedy=WEIGHTS_INSTEAD,
                )
            raise TargetError(
                f"{list(scopes)} names no attention of {self.model_type}; it has {present}.",
                field="scopes",
                remedy="Name one of those.",
            )
        return list(sites.values())

    def biased_by_distance(self, path: str) -> nn.Module | None:
        """The attention that makes the position bias of the one at `path` (T5's first layer, for all layers).

        None if there is none, and of cross-attention, in which T5 has no bias.
        """
        scope = self.scope(path)
        makers = (p for p, m in self.modules.items() if hasattr(m, "relative_attention_bias"))
        makers = (p for p in makers if hasattr(self.modules[p], "compute_bias") and self.scope(p) == scope)
        maker = path if hasattr(self.modules[path], "relative_attention_bias") else next(makers, None)
        return None if maker is None or scope == "cross" else self.modules[maker]

    def _key_shape(self, module: nn.Module) -> tuple[int, int]:
        """(key/value heads, head width) of an attention module."""
        if hasattr(module, "kv_lora_rank"):
            raise TargetError(
                f"the attention of {self.model_type} makes keys and values out of a narrow vector, so that "
                "learned ones have no place.",
                field="model",
                remedy="Choose a method that acts on weights or inputs, such as lora or prompt.",
            )
        config = getattr(module, "config", self.config)
        names = ("n_heads", "num_heads", "num_attention_heads")
        heads = next((getattr(module, n) for n in names if hasattr(module, n)), None)
        heads = heads or getattr(config, "num_attention_heads", 0) or getattr(config, "num_heads", 0)
        if not isinstance(heads, int) or not heads:
            raise TargetError(
                f"{type(module).__name__} of {self.model_type} does not tell its number of heads, so that "
                "learned keys and values have no shape.",
                field="model",
                remedy=WEIGHTS_INSTEAD,
            )
        widths = ("key_value_proj_dim", "head_dim", "attention_head_size")
        width = next((getattr(module, n) for n in widths if hasattr(module, n)), None)
        width = int(width or self.d_model // heads)
        return int(getattr(config, "num_key_value_heads", None) or heads), width


def stacks(base: nn.Module) -> dict[str, nn.ModuleList]:
    """The stacks of layers of a base, by path: the outermost lists of several modules of one class."""
    found: dict[str, nn.ModuleList] = {}
    for path, module in base.named_modules():
        inner = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) > 1 and len({type(m) for m in module}) == 1:
            found |= {} if inner else {path: module}
    return found
