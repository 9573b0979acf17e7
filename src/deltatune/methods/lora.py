r"""LoRA: low-rank adaptation of weight matrices.

    h = W_0 x + (alpha / r) B A x           (Hu et al. 2021, equation 3)

A is [r, d_in] and drawn as Kaiming-uniform with a = sqrt(5), B is [d_out, r] and zero, so that training
starts at the base exactly (the initialisation of the authors' loralib, which peft shares). With `rslora` the
factor is alpha / sqrt(r) (Kalajdzievski 2023, theorem 3.2). On an embedding the row of the token is looked up
in A instead; there A is zero and B normal, as in loralib.

Oracle: peft's LoraConfig with copied weights; files load both ways.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter
from deltatune.core.delta import BiasDelta, Delta, Dropout, Foldable
from deltatune.core.low_rank import SharedInput, add_low_rank_, add_low_ranks_
from deltatune.core.method import MethodConfig
from deltatune.core.sites import LINEAR, BaseView
from deltatune.core.whole import as_whole
from deltatune.errors import AdapterError, TargetError


@runtime_checkable
class LowRank(Protocol):
    """A delta that adds up @ down to its site's weight, whatever that weight is."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (down [r, d_in], up [d_out, r]); every scale is contained in them."""
        ...


class LoraDelta(Delta):
    """Low-rank update of a Linear or Conv1D.

    Args:
        d_in: Width of the input.
        d_out: Width of the output.
        r: Rank.
        scale: Factor on the update.
        dropout: Probability of dropping an element of the update's input.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(
        self, d_in: int, d_out: int, r: int, scale: float, dropout: float = 0.0, *, transposed: bool = False
    ) -> None:
        super().__init__()
        self.lora_A, self.lora_B = low_rank_pair(d_in, d_out, r)
        self.dropout = Dropout(dropout)
        self.shared = SharedInput([self])
        self.scale = scale
        self.transposed = transposed

    def down(self) -> Tensor:
        """Return A."""
        return self.lora_A.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + scale * B A dropout(x); x [..., d_in], y [..., d_out], which is overwritten."""
        return add_low_rank_(y, x, self, self.lora_B.weight, self.scale)

    @classmethod
    def together(cls, deltas: Sequence[Delta], x: Tensor, y: Tensor) -> Tensor | None:
        """Compute the updates of several runs as one product of stacked factors."""
        plain = [d for d in deltas if isinstance(d, LoraDelta) and type(d).forward is LoraDelta.forward]
        if len(plain) < len(deltas):
            return None
        pairs = [(d.lora_A.weight, d.lora_B.weight) for d in plain]
        return add_low_ranks_(y, x, pairs, [d.scale for d in plain], [d.dropout for d in plain])

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (A, scale * B)."""
        return self.lora_A.weight, self.lora_B.weight * self.scale

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + scale * B A, bias), summed in float32."""
        down, up = self.factors()
        update = up.float() @ down.float()
        return (weight.float() + (update.T if self.transposed else update)).to(weight.dtype), bias


class LoraEmbeddingDelta(Delta):
    """Low-rank update of an embedding table [n, d]: its row i gets scale * B A[:, i].

    Args:
        table: The frozen one. Gemma's and some others multiply what they find by `embed_scale`.
        r: Rank.
        scale: Factor on the update.
    """

    def __init__(self, table: nn.Embedding, r: int, scale: float) -> None:
        super().__init__()
        self.lora_embedding_A = nn.Parameter(torch.zeros(r, table.num_embeddings))
        self.lora_embedding_B = nn.Parameter(torch.randn(table.embedding_dim, r))
        self.scale = scale
        self._table = (table,)  # in a tuple, since it is not a part of the adapter

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + scale * B A[:, x], as the table scales it; x [...] token ids, y [..., d]."""
        low = F.embedding(x, self.lora_embedding_A.T.to(y.dtype)) * self.scale
        update = F.linear(low, self.lora_embedding_B.to(y.dtype))
        factor: Any = getattr(self._table[0], "embed_scale", None)
        return y + (update if factor is None else update * factor)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (A, scale * B); their product is the update of the transposed table."""
        return self.lora_embedding_A, self.lora_embedding_B * self.scale

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + scale * (B A)^T, bias)."""
        down, up = self.factors()
        return (weight.float() + (up.float() @ down.float()).T).to(weight.dtype), bias


class BiasedDelta(Delta):
    """A delta, and a change of the bias of its site."""

    def __init__(self, inner: Delta, change: BiasDelta) -> None:
        super().__init__()
        self.inner = inner
        self.change = change

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return what the delta makes of `y`, with the change of the bias."""
        changed: Tensor = self.change(x, self.inner(x, y))
        return changed

    def stored(self) -> dict[str, Tensor]:
        """The tensors of both."""
        return self.inner.stored() | self.change.stored()

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave."""
        names = self.change.stored().keys()
        self.change.load_stored({name: tensors[name] for name in names})
        self.inner.load_stored({name: tensor for name, tensor in tensors.items() if name not in names})

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight, bias) with both written into them."""
        assert isinstance(self.inner, Foldable)
        return self.change.fold(*self.inner.fold(weight, bias))


class LoraConfig(MethodConfig):
    """LoRA. Good at nearly everything; free at inference once merged. Start here."""

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "A low-rank update B A beside chosen weight matrices."
    formula: ClassVar[str] = "h = W_0 x + (alpha / r) B A x"
    when: ClassVar[str] = "Start here: good at nearly everything, and free at inference once merged."
    cost: ClassVar[str] = "r (d_in + d_out) parameters for each matrix; no extra latency once merged."
    defaults: ClassVar[str] = (
        "r 8 on query and value as in the paper's table 9 (RoBERTa); alpha = 2 r as much later work has it; "
        "lr 1e-3 is chosen here, for small models and short runs (that table: 2e-4 to 5e-4)."
    )
    size: ClassVar[str | None] = "r"
    kinds: ClassVar[tuple[type[nn.Module], ...]] = (*LINEAR, nn.Embedding)
    """Modules that can be selected."""
    paper: ClassVar[str] = (
        "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685)."
    )
    default_lr: ClassVar[float] = 1e-3
    short_runs: ClassVar[float] = 3.0
    peft_type: ClassVar[str | None] = "LORA"

    r: Annotated[int, Field(ge=1)] = 8
    """Rank of the update. 4 to 64; quality is often flat in it."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the update: it is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an element of the update's input."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) instead, which keeps high ranks learning."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("query", "value")
    """Roles (query, key, value, output, mlp_in, mlp_out), groups (attention, mlp, all-linear), each with an
    optional scope (decoder.query), ends of module paths, or globs."""

    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Other ranks than r, by the whole path of a module."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Other alphas, by the whole path of a module."""
    biases: tuple[str, ...] = ()
    """Modules whose bias is trained as well, by whole path; what peft's `bias` is read as."""

    def with_size(self, size: int) -> Self:
        """Another rank, with alpha in the same ratio to it, so that the factor on B A stays.

        The factor of rslora falls with the rank as its theorem has it, so there alpha stays.
        """
        alpha = self.alpha if self.rslora else self.alpha * size / self.r
        return self.changed({"r": size, "alpha": alpha})

    @property
    def scale(self) -> float:
        """Factor on B A."""
        return self.alpha / (math.sqrt(self.r) if self.rslora else self.r)

    def build(self, view: BaseView) -> Adapter:
        """One delta per selected module."""
        return Adapter(self.deltas(view))

    def deltas(self, view: BaseView) -> dict[str, Delta]:
        """The deltas by module path.

        Raises:
            TargetError: A module of `biases` has none.
        """
        found = {path: self.at(path).delta(view, path) for path in view.select(self.targets, self.kinds)}
        for path in self.biases:
            module = view.modules.get(path)
            bias = getattr(module, "bias", None)
            if not isinstance(bias, Tensor):
                raise TargetError(
                    f"{path!r} is no module of this base that has a bias.",
                    field="biases",
                    remedy="Leave it out.",
                )
            change = BiasDelta(len(bias), after=2 if isinstance(module, nn.Conv2d) else 0)
            found[path] = BiasedDelta(found[path], change) if path in found else change
        return found

    def at(self, path: str) -> Self:
        """The settings with the rank and alpha that the module `path` has."""
        rank, alpha = self.rank_pattern.get(path, self.r), self.alpha_pattern.get(path, self.alpha)
        return self.model_copy(update={"r": rank, "alpha": alpha})

    def delta(self, view: BaseView, path: str) -> Delta:
        """The delta at the module `path`; what the relatives of LoRA override."""
        module = view.modules[path]
        if isinstance(module, nn.Embedding):
            return LoraEmbeddingDelta(module, self.r, self.scale)
        d_in, d_out = linear_shape(path, module)
        transposed = isinstance(module, Conv1D)
        return LoraDelta(d_in, d_out, self.r, self.scale, self.dropout, transposed=transposed)

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fields of peft's LoraConfig, and the tensors under the names they have already."""
        heads = adapter.heads()
        changes = [path for path, d in adapter.deltas.items() if isinstance(d, BiasedDelta | BiasDelta)]
        alone = [path for path in changes if isinstance(adapter.deltas[path], BiasDelta)]
        targets = [path for path in adapter.deltas if path not in heads and path not in alone]
        tensors = adapter.stored()
        for path in changes:
            change = tensors.pop(f"{path}.bias")
            key = f"{path}.bias" if path in alone else f"{path}.base_layer.bias"
            tensors[key] = _bias(view, path, change) + change
        fields = {
            "r": self.r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "rank_pattern": self.rank_pattern,
            "alpha_pattern": self.alpha_pattern,
            "target_modules": targets,
            "fan_in_fan_out": any(isinstance(view.modules[path], Conv1D) for path in targets),
            "bias": "all" if alone else "lora_only" if changes else "none",
        }
        return fields, tensors

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """Plain LoRA; DoRA and PiSSA have the same type, and the bridge runs what only peft computes."""
        relative = config.get("use_dora") or config.get("init_lora_weights") == "pissa"
        return super().reads_peft(config) and not relative and not left_to_peft(config, BRIDGED)

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields; options that change the computation and that we lack are refused."""
        refuse_options({**config, "bias": "none"}, _OPTIONS_WE_LACK)  # which it has
        start = str(config.get("init_lora_weights"))
        if start.startswith(_STARTS_THAT_CHANGE_THE_BASE):
            raise AdapterError(
                f"init_lora_weights is {start!r}, which changes the base when peft loads the file.",
                field="adapter_config.json",
                remedy="Save it with peft's path_initial_model_for_weight_conversion, as plain LoRA.",
            )
        return cls(
            r=config["r"],
            alpha=config["lora_alpha"],
            dropout=config["lora_dropout"],
            rslora=config.get("use_rslora", False),
            targets=peft_targets(config),
        )

    def from_peft_tensors(self, tensors: Mapping[str, Tensor], view: BaseView) -> dict[str, Tensor]:
        """Take the base's biases off those in the file."""
        found = dict(tensors)
        for path in self.biases:
            whole = found.pop(f"{path}.base_layer.bias", None)
            whole = found[f"{path}.bias"] if whole is None else whole
            found[f"{path}.bias"] = whole.float() - _bias(view, path, whole)
        return found


def _bias(view: BaseView, path: str, like: Tensor) -> Tensor:
    """The base's own bias at `path` in float32, where `like` is."""
    bias = view.modules[path].bias
    assert isinstance(bias, Tensor)
    return as_whole(bias.detach()).float().to(like.device)


CONVOLUTIONS = "convolutions"
"""Marks peft's fields of a file with updates of convolutions."""
BRIDGED = ("lora_bias", CONVOLUTIONS, "monteclora_config")
"""What peft's own layers compute, where it is installed."""
_OPTIONS_WE_LACK = (
    *BRIDGED,
    "kasa_config",
    "velora_config",
    "use_bdlora",
    "arrow_config",
    "layer_replication",
    "megatron_config",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
)
_STARTS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def low_rank_pair(d_in: int, d_out: int, r: int) -> tuple[nn.Linear, nn.Linear]:
    """A [r, d_in], Kaiming-uniform with a = sqrt(5), and B [d_out, r], zero."""
    a, b = nn.Linear(d_in, r, bias=False), nn.Linear(r, d_out, bias=False)
    nn.init.kaiming_uniform_(a.weight, a=math.sqrt(5))
    nn.init.zeros_(b.weight)
    return a, b


def low_rank_product(x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Return scale * B A x in x's dtype; x [..., d_in], A [r, d_in], B [d_out, r]."""
    return F.linear(F.linear(x, a.to(x.dtype)) * scale, b.to(x.dtype))


def linear_shape(path: str, module: nn.Module) -> tuple[int, int]:
    """(d_in, d_out) of a Linear or Conv1D.

    Raises:
        TargetError: It is neither.
    """
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    raise TargetError(
        f"{path!r} is a {type(module).__name__}, and this method acts on linear layers.",
        field="targets",
        remedy="Name linear layers, for example by the role 'query' or by 'all-linear'.",
    )


def left_to_peft(config: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether a file of peft's uses one of the options `names`, and peft is there to compute it."""
    return any(config.get(name) for name in names) and importlib.util.find_spec("peft") is not None


def refuse_options(config: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raise AdapterError if a file of peft's uses one of the options `names`."""
    used = [name for name in names if config.get(name)]
    if used or config.get("bias", "none") != "none":
        raise AdapterError(
            f"the file uses {', '.join(used) or 'a trained bias'}, which this method does not compute.",
            field="adapter_config.json",
            remedy="Load it with peft.",
        )


def peft_targets(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What peft's `target_modules` names; the keys of the file's tensors say which modules that are."""
    targets = config["target_modules"]
    if isinstance(targets, str):
        return (targets,)
    return tuple(sorted(targets))
