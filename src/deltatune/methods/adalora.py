r"""AdaLoRA: a low-rank update whose ranks are allotted to the matrices that need them.

    h = W_0 x + (alpha / r_0) P diag(lambda) Q x          (Zhang et al. 2023, equation 3)

P [d_out, r_0] and Q [r_0, d_in] start as N(0, 0.02), lambda at zero. A penalty keeps P and Q orthonormal
(equation 4), so that lambda are singular values. Each triplet i = (P_i, lambda_i, Q_i) has the importance S_i
= s(lambda_i) + mean s(P_i) + mean s(Q_i), where s = sensitivity * uncertainty and both are moving averages of
|w dL/dw| (equations 7 to 11). The budget of triplets falls from r_0 to the target along a cubic between
`tinit` and `tfinal` steps before the end (appendix A); the least important ones are set to zero.

The schedule is derived from the number of steps that the run really has, the trainer calls it on every step,
and a run that ends with another budget than its target fails. (peft leaves the calls to the user, and its
trainer path never makes them: then all singular values survive, silently.)

Oracle: peft's AdaLoRA driven by hand: same logits, same losses over 20 steps, same rank pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltatune.core.adapter import Adapter, Extent, extent_of
from deltatune.core.delta import Delta, Dropout
from deltatune.core.low_rank import SharedInput, add_low_rank_
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import RecipeError, TrainingError
from deltatune.methods.lora import linear_shape, peft_targets, refuse_options

_MATRICES = ("lora_A", "lora_E", "lora_B")


class AdaLoraDelta(Delta):
    """Update of a Linear or Conv1D in the form of a singular value decomposition.

    Args:
        d_in: Width of the input.
        d_out: Width of the output.
        r: Number of triplets that are kept here.
        scale: alpha / r_0.
        dropout: Probability of dropping an element of the update's input.
        transposed: The site stores its weight as [d_in, d_out] (Conv1D).
    """

    def __init__(
        self, d_in: int, d_out: int, r: int, scale: float, dropout: float = 0.0, *, transposed: bool = False
    ) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(r, d_in) * 0.02)
        self.lora_E = nn.Parameter(torch.zeros(r, 1))
        self.lora_B = nn.Parameter(torch.randn(d_out, r) * 0.02)
        self.dropout = Dropout(dropout)
        self.shared = SharedInput([self])
        self.scale = scale
        self.transposed = transposed

    def down(self) -> Tensor:
        """Return diag(E) A."""
        return self.lora_A * self.lora_E

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return y + scale * B diag(E) A dropout(x); x [..., d_in], y [..., d_out], which is overwritten."""
        return add_low_rank_(y, x, self, self.lora_B, self.scale)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return (diag(E) A, scale * B)."""
        return self.lora_A * self.lora_E, self.lora_B * self.scale

    def fold(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (weight + scale * B diag(E) A, bias)."""
        down, up = self.factors()
        update = up.float() @ down.float()
        return (weight.float() + (update.T if self.transposed else update)).to(weight.dtype), bias


class AdaLoraAdapter(Adapter):
    """The deltas together with the schedule that shares the budget among them."""

    def __init__(self, deltas: Mapping[str, AdaLoraDelta], config: AdaLoraConfig) -> None:
        super().__init__(deltas)
        self.config = config
        self.low_rank = dict(deltas)
        self.target = config.target_r * len(deltas)
        self.total_steps = 0
        self.step = 0
        self.mask: dict[str, Tensor] | None = None
        """Which triplets live, by site [r_0], since the last allocation."""
        self._alive: int | None = None
        """How many; known here, where a GPU would have to be asked. None: not counted yet."""
        self._sensitivity: dict[str, Tensor] = {}
        self._uncertainty: dict[str, Tensor] = {}

    def start(self, total_steps: int) -> None:
        """Place the schedule: full budget until `first`, target budget from `last` on."""
        self.total_steps = total_steps
        self.first = _steps(self.config.tinit, total_steps)
        self.last = total_steps - _steps(self.config.tfinal, total_steps)
        if self.first >= self.last:
            raise RecipeError(
                f"AdaLoRA keeps its full budget for {self.first} steps and its final one for the last "
                f"{total_steps - self.last}, which leaves none of the {total_steps} steps to shrink it in.",
                field="adalora.tinit",
                remedy="Train longer, or make tinit and tfinal smaller (shares of the steps, or counts).",
            )

    def budget(self, step: int) -> int:
        """Triplets alive after optimizer step `step` (Zhang et al. 2023, appendix A)."""
        full = self.config.init_r * len(self.low_rank)
        if step <= self.first:
            return full
        if step >= self.last:
            return self.target
        left = 1 - (step - self.first) / (self.last - self.first)
        return int(self.target + (full - self.target) * left**3)

    def penalty(self) -> Tensor | None:
        """orth_reg * mean over P and Q of ||P^T P - I||_F, ||Q Q^T - I||_F (as peft averages equation 4)."""
        if self.config.orth_reg == 0:
            return None
        distances = []
        for delta in self.low_rank.values():
            for gram in (delta.lora_A @ delta.lora_A.T, delta.lora_B.T @ delta.lora_B):
                distances.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.config.orth_reg * torch.stack(distances).mean()

    @torch.no_grad()
    def after_step(self, step: int) -> dict[str, float]:
        """Update the importance of all triplets and, when it is time, drop the least important ones."""
        self.step = step
        if step < self.last or not self._sensitivity:  # two steps leave none before the last allocation
            self._observe()
        due = self.first < step < self.last and step % self.config.interval == 0
        if due or step == self.last:
            self._allocate(self.budget(step))
        if step >= self.last and self.mask is not None:
            self._apply_mask()
        return {"budget": float(self.alive())}

    def _observe(self) -> None:
        beta1, beta2 = self.config.beta1, self.config.beta2
        for path, delta in self.low_rank.items():
            for name in _MATRICES:
                parameter = getattr(delta, name)
                key = f"{path}.{name}"
                if key not in self._sensitivity:
                    self._sensitivity[key] = torch.zeros_like(parameter)
                    self._uncertainty[key] = torch.zeros_like(parameter)
                now = (parameter * parameter.grad).abs()
                mean = self._sensitivity[key].mul_(beta1).add_(now, alpha=1 - beta1)
                self._uncertainty[key].mul_(beta2).add_((now - mean).abs(), alpha=1 - beta2)

    def importance(self) -> dict[str, Tensor]:
        """Importance of each triplet, by site [r_0]."""
        scores = {}
        for path in self.low_rank:
            a, e, b = (self._sensitivity[f"{path}.{n}"] * self._uncertainty[f"{path}.{n}"] for n in _MATRICES)
            scores[path] = e.view(-1) + a.mean(dim=1) + b.mean(dim=0)
        return scores

    def _allocate(self, budget: int) -> None:
        """Keep exactly the `budget` most important triplets; ties go to the earlier site."""
        scores = self.importance()
        order = torch.cat(list(scores.values())).argsort(descending=True, stable=True)
        alive = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        alive[order[:budget]] = True
        self._alive = min(budget, len(order))
        parts = torch.split(alive, [len(score) for score in scores.values()])
        self.mask = dict(zip(scores, parts, strict=True))
        self._apply_mask()

    def _apply_mask(self) -> None:
        assert self.mask is not None
        for path, alive in self.mask.items():
            self.low_rank[path].lora_E.masked_fill_(~alive[:, None], 0.0)

    def alive(self) -> int:
        """Triplets that the last allocation kept (all, before the first)."""
        if self.mask is None:
            return sum(len(delta.lora_E) for delta in self.low_rank.values())
        if self._alive is None:  # of a mask that was loaded
            self._alive = sum(int(alive.sum()) for alive in self.mask.values())
        return self._alive

    @property
    def settled(self) -> bool:
        """Whether the target budget has been reached."""
        return self.mask is not None and self.step >= self.last

    def finish(self) -> dict[str, float]:
        """Check that exactly the target budget is alive."""
        living = sum(int((delta.lora_E != 0).sum()) for delta in self.low_rank.values())
        if self.alive() != self.target or living > self.target:
            raise TrainingError(
                f"AdaLoRA ended with {max(self.alive(), living)} of {self.target} singular values.",
                field="adalora.target_r",
                remedy="The budget schedule did not run to its end; train all planned steps.",
            )
        return {"budget": float(self.alive()), "target_budget": float(self.target)}

    def rank_pattern(self) -> dict[str, list[bool]] | None:
        """Which triplets live, by site; None before the first allocation."""
        if self.config.rank_pattern is not None:
            return self.config.rank_pattern
        return None if self.mask is None else {path: m.tolist() for path, m in self.mask.items()}

    def extent(self) -> Extent:
        """As many triplets as the target says, each of the mean size: which ones will live is not known."""
        low_rank = extent_of(t for delta in self.low_rank.values() for t in delta.stored().values())
        rest = self.extent_besides(self.low_rank)
        share = self.target / sum(len(delta.lora_E) for delta in self.low_rank.values())
        return Extent(
            rest.numbers + round(share * low_rank.numbers), rest.bytes + round(share * low_rank.bytes)
        )

    def stored(self) -> dict[str, Tensor]:
        """The living triplets only."""
        tensors = super().stored()
        for path, alive in (self.mask or {}).items():
            for name in ("lora_A", "lora_E"):
                tensors[f"{path}.{name}"] = tensors[f"{path}.{name}"][alive].contiguous()
            tensors[f"{path}.lora_B"] = tensors[f"{path}.lora_B"][:, alive].contiguous()
        return tensors

    def resume_state(self) -> dict[str, Any]:
        """The moving averages and the mask."""
        return super().resume_state() | {
            "step": self.step,
            "sensitivity": self._sensitivity,
            "uncertainty": self._uncertainty,
            "mask": self.mask or {},
        }

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """Take what `resume_state` gave."""
        super().load_resume_state(state)
        self.step = int(state["step"])
        self._sensitivity, self._uncertainty = dict(state["sensitivity"]), dict(state["uncertainty"])
        self.mask = dict(state["mask"]) or None
        self._alive = None


class AdaLoraConfig(MethodConfig):
    """AdaLoRA. For a fixed budget over many matrices, when it is not known which of them matter."""

    name: ClassVar[str] = "adalora"
    title: ClassVar[str] = "LoRA in SVD form; the rank budget moves to the matrices that need it."
    formula: ClassVar[str] = (
        "h = W_0 x + (alpha / r_0) P diag(lambda) Q x, with the least important lambda set to zero"
    )
    when: ClassVar[str] = (
        "For a fixed budget over many matrices, when it is not known which of them matter; needs a few "
        "hundred steps."
    )
    cost: ClassVar[str] = (
        "init_r (d_in + d_out + 1) parameters for each matrix while training, about target_r / init_r of "
        "them in the file."
    )
    defaults: ClassVar[str] = (
        "init_r 12, 1.5 times target_r 8, and both betas 0.85 as in the paper's section 4.1; the schedule is "
        "laid out over the run's real steps; lr 5e-3 is chosen here (the authors' script for SST-2: 8e-4)."
    )
    size: ClassVar[str | None] = "init_r"
    follow_size: ClassVar[tuple[str, ...]] = ("target_r",)
    paper: ClassVar[str] = (
        "Zhang et al. 2023, Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning "
        "(arXiv 2303.10512)."
    )
    default_lr: ClassVar[float] = 5e-3
    short_runs: ClassVar[float] = 4.0
    peft_type: ClassVar[str | None] = "ADALORA"

    init_r: Annotated[int, Field(ge=1)] = 12
    """Rank of every matrix at the start."""
    target_r: Annotated[int, Field(ge=1)] = 8
    """Mean rank at the end; the budget is target_r times the number of matrices."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the update: it is multiplied by alpha / init_r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an element of the update's input."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("query", "value")
    """Roles, groups, ends of module paths or globs; as for lora."""
    tinit: Annotated[int | float, Field(ge=0)] = 0.1
    """Steps with the full budget at the start: a count, or a share (below 1) of the run's steps."""
    tfinal: Annotated[int | float, Field(ge=0)] = 0.3
    """Steps with the final budget at the end: a count, or a share (below 1) of the run's steps."""
    interval: Annotated[int, Field(ge=1)] = 10
    """Steps between two allocations."""
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Decay of the moving average of the sensitivity."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Decay of the moving average of the uncertainty."""
    orth_reg: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the penalty that keeps P and Q orthonormal."""
    rank_pattern: dict[str, list[bool]] | None = None
    """Which triplets of each matrix live. Learned; written when a delta is saved."""

    @model_validator(mode="after")
    def _target_below_init(self) -> Self:
        if self.target_r > self.init_r:
            raise ValueError(f"target_r ({self.target_r}) must not exceed init_r ({self.init_r})")
        return self

    def with_size(self, size: int) -> Self:
        """Another rank at the start, which is what is trained; target_r and alpha in the same ratio to it."""
        target = max(1, round(size * self.target_r / self.init_r))
        alpha = self.alpha * size / self.init_r
        return self.changed({"init_r": size, "target_r": target, "alpha": alpha})

    def build(self, view: BaseView) -> Adapter:
        """One delta per selected linear layer."""
        deltas = {}
        for path, module in view.select(self.targets).items():
            d_in, d_out = linear_shape(path, module)
            rank = self.init_r if self.rank_pattern is None else sum(self.rank_pattern.get(path, ()))
            transposed = isinstance(module, Conv1D)
            # peft divides by r_0 + 1e-5; the same constant keeps stored deltas interchangeable.
            scale = self.alpha / (self.init_r + 1e-5)
            deltas[path] = AdaLoraDelta(d_in, d_out, rank, scale, self.dropout, transposed=transposed)
        return AdaLoraAdapter(deltas, self)

    def lost_when_saved(self) -> str | None:
        """The schedule of ranks."""
        return "its ranks were pruned for good at the end of their schedule"

    def for_inference(self, adapter: Adapter) -> Self:
        """The same with the learned ranks."""
        assert isinstance(adapter, AdaLoraAdapter)
        return self.model_copy(update={"rank_pattern": adapter.rank_pattern()})

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fields of peft's AdaLoraConfig; the schedule is over, so only its outcome is stored."""
        assert isinstance(adapter, AdaLoraAdapter)
        pattern = adapter.rank_pattern()
        fields = {
            "init_r": self.init_r,
            "target_r": self.target_r,
            "r": self.init_r,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "deltaT": self.interval,
            "orth_reg_weight": self.orth_reg,
            "total_step": max(adapter.total_steps, 1),
            "target_modules": list(adapter.low_rank),
            "fan_in_fan_out": any(delta.transposed for delta in adapter.low_rank.values()),
            "rank_pattern": pattern and {f"{path}.lora_E": mask for path, mask in pattern.items()},
            "bias": "none",
        }
        return fields, adapter.stored()

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's fields."""
        refuse_options(config, ("use_dora", "use_rslora", "alpha_pattern", "layer_replication"))
        pattern = config.get("rank_pattern")
        return cls(
            init_r=config["init_r"],
            target_r=config["target_r"],
            alpha=config["lora_alpha"],
            dropout=config.get("lora_dropout", 0.0),
            targets=peft_targets(config),
            rank_pattern=pattern and {key.removesuffix(".lora_E"): mask for key, mask in pattern.items()},
        )


def _steps(setting: int | float, total: int) -> int:
    """A count as it is; a share below 1 of the total, rounded."""
    return round(setting * total) if isinstance(setting, float) and setting < 1 else int(setting)
