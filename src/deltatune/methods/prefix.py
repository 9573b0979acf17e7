r"""Prefix tuning: learned keys and values that every attention layer sees before those of the input.

    head = Attn(x W_q, [P_k; x W_k], [P_v; x W_v])      (Li and Liang 2021, section 4.2; He et al. 2022, (5))

P_k and P_v are [n_tokens, d] for each layer. With `projection` they come out of a small network while
training, P = MLP(E) with one tanh layer (section 4.3), which is dropped afterwards: only P is stored.

It reaches every attention that the recipe names: the encoder's, the decoder's and the cross-attention, in
text and vision models alike. The prefix has no position of its own: T5's position bias is zero for it and
rotary embeddings do not turn it. In decoder-only models the input's positions begin after it, as they do in
peft, so that files are interchangeable. Two architectures whose attention is their own are decided one by one
(core/own_attention.py): the prefix of BLOOM stands at the positions before the input's first, as in peft, and
to DeBERTa's relative positions it has none, as in the code of P-tuning v2.

In encoder-decoders peft computes something else, and `cached_layers` does the same: P is the past of the
decoder's self-attention alone. T5's position bias then falls with the distance to it, and what the decoder of
BART writes begins at the position n_tokens. peft makes four tensors of each layer's two and drops half of
them, so that with an even number of layers the second half of the layers has the rows of the first.

Initialisation: N(0, init_std) for P without projection; peft draws N(0, 1), which for T5's unscaled scores
starts far from the base. Oracle: peft's PrefixTuningConfig with copied values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from deltatune.core.adapter import Adapter, KeysValues
from deltatune.core.method import MethodConfig
from deltatune.core.sites import AttentionSite, BaseView
from deltatune.errors import AdapterError, TargetError

Scope = Literal["encoder", "decoder", "cross"]


class PrefixTable(KeysValues):
    """Keys and values as parameters, each [kv_heads, n_tokens, head_dim]."""

    def __init__(self, site: AttentionSite, n_tokens: int, std: float, *, placed: bool = False) -> None:
        super().__init__()
        self.placed = placed
        shape = (site.kv_heads, n_tokens, site.head_dim)
        self.keys = nn.Parameter(torch.randn(shape) * std)
        self.values = nn.Parameter(torch.randn(shape) * std)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return (keys, values)."""
        return self.keys, self.values


class Projection(nn.Module):
    """What all layers of a reparameterised prefix share: tanh(W_1 E + b_1), [n_tokens, hidden]."""

    def __init__(self, n_tokens: int, d: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_tokens, d))
        self.inner = nn.Linear(d, hidden)

    def forward(self) -> Tensor:
        """Return the hidden vectors of the prefix."""
        return torch.tanh(self.inner(self.embedding))


class ProjectedPrefix(KeysValues):
    """Keys and values of one site as a linear image of the shared projection."""

    def __init__(self, site: AttentionSite, shared: Projection, hidden: int) -> None:
        super().__init__()
        self._shared = (shared,)  # in a tuple: it is registered once, by the adapter
        self.outer = nn.Linear(hidden, 2 * site.kv_heads * site.head_dim)
        self.shape = (2, site.kv_heads, site.head_dim)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return (keys, values)."""
        both = self.outer(self._shared[0]()).view(-1, *self.shape).permute(1, 2, 0, 3)
        return both[0], both[1]


class PrefixAdapter(Adapter):
    """Learned keys and values, and the network that makes them if there is one."""

    def __init__(
        self,
        keys_values: Mapping[str, KeysValues],
        position_shift: int,
        shared: Projection | None = None,
    ) -> None:
        super().__init__(keys_values=keys_values, position_shift=position_shift)
        self.shared = shared


class PrefixConfig(MethodConfig):
    """Prefix tuning. Leaves all weights alone; several tasks can share one running base."""

    name: ClassVar[str] = "prefix"
    title: ClassVar[str] = "Learned keys and values before those of the input, in every attention layer."
    formula: ClassVar[str] = "head = Attn(x W_q, [P_k; x W_k], [P_v; x W_v])"
    when: ClassVar[str] = (
        "When all weights must stay as they are, or many tasks share one running base; usually behind lora."
    )
    cost: ClassVar[str] = (
        "2 n_tokens d parameters for each attention; every attention sees n_tokens keys more, for good."
    )
    defaults: ClassVar[str] = (
        "Chosen here: 20 tokens (Li and Liang, section 7.1, find 10 best for table-to-text and 200 for "
        "summaries), without their projection network, and lr 1e-2, since values are used as they are."
    )
    size: ClassVar[str | None] = "n_tokens"
    paper: ClassVar[str] = "Li and Liang 2021, Prefix-Tuning (arXiv 2101.00190)."
    default_lr: ClassVar[float] = 1e-2
    short_runs: ClassVar[float] = 3.0
    peft_type: ClassVar[str | None] = "PREFIX_TUNING"
    learns_keys: ClassVar[bool] = True

    n_tokens: Annotated[int, Field(ge=1)] = 20
    """Length of the prefix."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = ("encoder", "decoder", "cross")
    """Which attention gets one: encoder, decoder (its self-attention), cross; what it lacks is skipped."""
    projection: bool = False
    """Train through a small network (reparameterisation), which is dropped when the delta is saved."""
    projection_size: Annotated[int, Field(ge=1)] = 512
    """Width of that network."""
    init_std: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of the initial keys and values without projection."""
    cached_layers: Annotated[int, Field(ge=1)] | None = None
    """In encoder-decoders: the prefix is the past of the decoder, as peft makes it for so many layers."""

    @model_validator(mode="after")
    def _one_past(self) -> Self:
        if self.cached_layers and (self.projection or self.scopes != ("decoder",)):
            raise ValueError("cached_layers is for the decoder alone: scopes: [decoder], without projection.")
        return self

    def build(self, view: BaseView) -> Adapter:
        """Keys and values for each attention site of the named scopes.

        Raises:
            TargetError: The base lacks these scopes, or is not what `cached_layers` is for.
        """
        sites = view.attention_sites(self.scopes)
        if self.cached_layers:
            return self._as_past(view, sites, self.cached_layers)
        shift = self.n_tokens if view.is_decoder_only else 0
        if not self.projection:
            tables = {site.path: PrefixTable(site, self.n_tokens, self.init_std) for site in sites}
            return PrefixAdapter(tables, shift)
        shared = Projection(self.n_tokens, view.d_model, self.projection_size)
        projected = {site.path: ProjectedPrefix(site, shared, self.projection_size) for site in sites}
        return PrefixAdapter(projected, shift, shared)

    def _as_past(self, view: BaseView, sites: list[AttentionSite], layers: int) -> Adapter:
        """Keys and values of the decoder's layers as peft gives them out: some have them in common.

        Raises:
            TargetError: The base is no encoder-decoder, or its decoder has more layers.
        """
        if not view.is_encoder_decoder or len(sites) > layers:
            what = "no encoder-decoder" if not view.is_encoder_decoder else f"one of {len(sites)} layers"
            raise TargetError(
                f"{layers} cannot be: it is for the decoder of an encoder-decoder with at most so many "
                f"layers, and {view.model_type} is {what}.",
                field="cached_layers",
                remedy="Leave it out.",
            )
        rows = self._rows(layers)[: len(sites)]
        tables = {
            row: PrefixTable(sites[0], self.n_tokens, self.init_std, placed=True)
            for row in dict.fromkeys(rows)
        }
        shared = {site.path: tables[row] for site, row in zip(sites, rows, strict=True)}
        return PrefixAdapter(shared, self.n_tokens)

    def lost_when_saved(self) -> str | None:
        """The network."""
        if not self.projection:
            return None
        return "its network (projection) is not saved, only the keys and values that it made"

    def for_inference(self, adapter: Adapter) -> Self:
        """The same without the reparameterisation."""
        return self.model_copy(update={"projection": False})

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """One table [n_tokens, layers * 2 * d], as peft holds it, where it computes the same."""
        if not self.cached_layers and view.model_type not in _PEFT_POSITIONS:
            return None
        tensors = adapter.stored()
        first, *_ = sites = view.attention_sites(self.scopes)
        layers = self.cached_layers or len(sites)
        # What no layer reads stays zero.
        table = torch.zeros(2 * layers, first.kv_heads, self.n_tokens, first.head_dim)
        for site, row in zip(sites, self._rows(layers), strict=False):
            table[row] = tensors.pop(f"{site.path}.prefix_keys")
            table[row + 1] = tensors.pop(f"{site.path}.prefix_values")
        table = table.permute(2, 0, 1, 3).reshape(self.n_tokens, -1)
        fields = {
            "num_virtual_tokens": self.n_tokens,
            "num_layers": layers,
            "num_attention_heads": first.kv_heads,
            "token_dim": first.kv_heads * first.head_dim,
            "num_transformer_submodules": 2 if self.cached_layers else 1,
            "encoder_hidden_size": first.kv_heads * first.head_dim,
            "prefix_projection": False,
        }
        return fields, tensors | {"prompt_embeddings": table.contiguous()}

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields."""
        n_tokens = config["num_virtual_tokens"]
        if config.get("num_transformer_submodules") == 2:  # of an encoder-decoder
            return cls(n_tokens=n_tokens, scopes=("decoder",), cached_layers=config["num_layers"])
        return cls(n_tokens=n_tokens)

    def from_peft_tensors(self, tensors: Mapping[str, Tensor], view: BaseView) -> dict[str, Tensor]:
        """Cut peft's table into the keys and values of each layer.

        Raises:
            AdapterError: It was made for another kind of base.
        """
        if view.is_encoder_decoder and not self.cached_layers:
            raise AdapterError(
                "the prefix was made for a model without an encoder (num_transformer_submodules), and this "
                "base has one.",
                remedy="Load it onto the model it was trained on.",
            )
        found = dict(tensors)
        table = found.pop("prompt_embeddings")
        sites = view.attention_sites(self.scopes)
        layers = self.cached_layers or len(sites)
        heads, width = sites[0].kv_heads, sites[0].head_dim
        rows = table.view(table.shape[0], 2 * layers, heads, width).permute(1, 2, 0, 3)
        for site, row in zip(sites, self._rows(layers), strict=False):
            found[f"{site.path}.prefix_keys"] = rows[row].contiguous()
            found[f"{site.path}.prefix_values"] = rows[row + 1].contiguous()
        return found

    def _rows(self, layers: int) -> list[int]:
        """The row of each layer's keys among the rows of peft's table; its values are in the next."""
        return _peft_rows(layers) if self.cached_layers else list(range(0, 2 * layers, 2))


def _peft_rows(layers: int) -> list[int]:
    """The same in an encoder-decoder: peft repeats its rows, two a layer, and each layer takes four."""
    return [4 * layer % (2 * layers) for layer in range(layers)]


_PEFT_POSITIONS = ("bloom", "gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt_neox", "glm", "gemma")
"""Decoder-only models whose files go both ways; the others get a type of our own."""
