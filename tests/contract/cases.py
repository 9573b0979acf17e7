"""The table of the contract suite: one line for each method and variant. A new method adds one here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.contract import sizes

from deltatune import testing
from deltatune.testing import tiny
from deltatune.testing.tiny import ARCHITECTURES, ATTENTION, QUERY_VALUE, D

NOT_QUANTIZED = "it makes up for quantization, and these bases are not quantized; refused by a TargetError"
NO_BIAS = "the base has no bias that could hold a trained one; refused by an AdapterError"
NO_PATCH_MASK = "patches have no attention mask to hide a missing prompt behind; refused by a TargetError"
NO_VOCABULARY = "a hard prompt is text, and images have no vocabulary; refused by a TargetError"
SEARCHED = "tokens are swapped by hooks that this check does not call, or not within its three small steps"
CLOSED_GATE = "the one gate of a matrix has no gradient in a step in which it is drawn as fully open"
NO_CONV1D_IN_PEFT = "peft's layer of this type replaces no Conv1D; refused by a TargetError"
PEFT_REFLECTS = "peft reflects the frozen weight: stacked, changes add up; merged, the reflections multiply"
NO_CLASSES = "it is for classifiers, and the base is none; refused by a TargetError"
NO_TEXT = "it is for models that write texts, and the base writes none; refused by a TargetError"
ALL = frozenset(ARCHITECTURES)
VISION = frozenset(tiny.VISION)
TEXT = ALL - VISION
NO_FEED_FORWARD: dict[tuple[str, str | frozenset[str]], str] = {
    ("*", "mixtral"): "its experts are one tensor each way, with no layer to hook; refused by a TargetError"
}


@dataclass(frozen=True)
class Case(testing.Case):
    """A case of the kit, and the architectures on which the saved files load in peft."""

    peft: frozenset[str] = ALL


def low_rank(r: int, extra: int = 0) -> Callable[[str], int]:
    """r (d_in + d_out) for each matrix, and `extra` values more."""
    return lambda architecture: sum(r * (i + o) + extra for i, o in QUERY_VALUE[architecture])


def magnitudes(count: Callable[[str], int]) -> Callable[[str], int]:
    """One value for each output of each matrix beside those of `count`."""
    return lambda architecture: count(architecture) + sum(o for _, o in QUERY_VALUE[architecture])


def prefix(n: int) -> Callable[[str], int]:
    """2 n d for each attention."""
    return lambda architecture: ATTENTION[architecture][0] * ATTENTION[architecture][1] * 2 * n


def projected_prefix(n: int, hidden: int) -> Callable[[str], int]:
    """The shared embedding and layer, and one output layer for each attention."""
    shared = n * D + D * hidden + hidden
    return lambda a: shared + ATTENTION[a][0] * (hidden + 1) * 2 * ATTENTION[a][1]


def prompt_network(n: int, h: int, *, lstm: bool) -> int:
    """Weights and biases of P-tuning's network, two for each gate of torch's LSTM, and its n inputs."""
    if not lstm:
        return n * D + (D + 1) * h + (h + 1) * h + (h + 1) * D
    recurrent = 2 * 4 * h * (D + h + 2) + 2 * 4 * h * (2 * h + h + 2)
    return n * D + recurrent + (2 * h + 1) * 2 * h + (2 * h + 1) * D


def everything(architecture: str) -> int:
    """All parameters."""
    return sum(p.numel() for p in tiny.model(architecture).parameters())


CASES = (
    Case("untuned", "untuned", {}, lambda a: 0, peft=frozenset()),
    Case(
        "majority",
        "majority",
        {},
        lambda a: 0,
        identity=False,
        foldable=False,
        peft=frozenset(),
        gaps={("*", frozenset(tiny.GENERATING)): NO_CLASSES},
    ),
    Case(
        "few_shot",
        "few_shot",
        {"k": 2},
        lambda a: 0,
        foldable=False,
        peft=frozenset(),
        gaps={("*", frozenset(tiny.CLASSIFIERS)): NO_TEXT},
    ),
    Case("knn", "knn", {"k": 2}, lambda a: 0, foldable=False, peft=frozenset()),
    Case(
        "copy",
        "copy",
        {},
        lambda a: 0,
        foldable=False,
        peft=frozenset(),
        gaps={("*", frozenset(tiny.CLASSIFIERS)): NO_TEXT},
    ),
    Case(
        "head",
        "head",
        {},
        lambda a: 0,
        peft=frozenset(),
        gaps={
            ("*", frozenset(tiny.GENERATING)): NO_CLASSES,
            ("stacking", "*"): "of two heads, each in place of the base's, the later one acts",
            ("checkpointing_equals_plain", "*"): "no layer below the head has a backward pass to compute for",
        },
    ),
    Case("lora", "lora", {"r": 2, "alpha": 4}, low_rank(2), other={"r": 3, "alpha": 4, "targets": ["key"]}),
    Case("lora-dropout", "lora", {"r": 2, "dropout": 0.1}, low_rank(2), other={"r": 3, "dropout": 0.3}),
    Case("lora-rslora", "lora", {"r": 4, "alpha": 2, "rslora": True}, low_rank(4)),
    Case(
        "dora",
        "dora",
        {"r": 2, "alpha": 3},
        magnitudes(low_rank(2)),
        other={"r": 3, "alpha": 4, "targets": ["key"]},
    ),
    Case("dora-dropout", "dora", {"r": 2, "dropout": 0.1}, magnitudes(low_rank(2))),
    Case("pissa", "pissa", {"r": 2, "alpha": 4}, low_rank(2), other={"r": 3, "targets": ["key"]}),
    Case("pissa-fast", "pissa", {"r": 2, "alpha": 3, "niter": 16, "rslora": True}, low_rank(2)),
    Case("loftq", "loftq", {"r": 2}, low_rank(2), gaps={("*", ALL): NOT_QUANTIZED}),
    Case("lora_plus", "lora_plus", {"r": 2}, low_rank(2), other={"r": 3, "targets": ["key"]}),
    Case(
        "lora_fa",
        "lora_fa",
        {"r": 2, "alpha": 4},
        lambda a: sum(2 * o for _, o in QUERY_VALUE[a]),
        other={"r": 3, "targets": ["key"]},
    ),
    Case(
        "vera",
        "vera",
        {"r": 6},
        lambda a: sum(6 + o for _, o in QUERY_VALUE[a]),
        other={"r": 9, "targets": ["key"]},
    ),
    Case("vera-dropout", "vera", {"r": 6, "dropout": 0.1}, lambda a: sum(6 + o for _, o in QUERY_VALUE[a])),
    Case(
        "adalora", "adalora", {"init_r": 3, "target_r": 2}, low_rank(3, 3), other={"init_r": 2, "target_r": 1}
    ),
    Case(
        "prefix",
        "prefix",
        {"n_tokens": 3, "init_std": 0.5},
        prefix(3),
        identity=False,
        foldable=False,
        other={"n_tokens": 5, "init_std": 0.5},
        peft=frozenset(("llama", "gpt2", "bloom")),
    ),
    Case(
        "prefix-projection",
        "prefix",
        {"n_tokens": 3, "projection": True, "projection_size": 6},
        projected_prefix(3, 6),
        identity=False,
        foldable=False,
        peft=frozenset(("llama", "gpt2", "bloom")),
    ),
    Case(
        "prompt",
        "prompt",
        {"n_tokens": 3},
        lambda a: 3 * D,
        identity=False,
        foldable=False,
        other={"n_tokens": 5},
        peft=TEXT,
        gaps=dict.fromkeys(
            [("unrouted_rows_are_plain", VISION), ("joint_equals_solo_for_two_shapes", VISION)], NO_PATCH_MASK
        ),
    ),
    *(
        Case(
            f"p_tuning-{encoder}",
            "p_tuning",
            {"n_tokens": 3, "encoder": encoder, "hidden": 5},
            lambda a, lstm=encoder == "lstm": prompt_network(3, 5, lstm=lstm),
            identity=False,
            foldable=False,
            other={"n_tokens": 4, "encoder": encoder},
            peft=TEXT,
            gaps=dict.fromkeys(
                [("unrouted_rows_are_plain", VISION), ("joint_equals_solo_for_two_shapes", VISION)],
                NO_PATCH_MASK,
            ),
        )
        for encoder in ("lstm", "mlp")
    ),
    Case(
        "p_tuning_v2",
        "p_tuning_v2",
        {"n_tokens": 4, "init_std": 0.5},
        prefix(4),
        identity=False,
        foldable=False,
        other={"n_tokens": 2, "init_std": 0.5},
        peft=frozenset(("llama", "gpt2", "bloom")),
    ),
    *(
        Case(
            f"adapter-{kind}",
            "adapter",
            {"kind": kind, "bottleneck": 3, "non_linearity": function},
            sizes.adapters(3, kind),
            foldable=False,
            other={"kind": kind, "bottleneck": 5},
            peft=frozenset(),
            gaps=NO_FEED_FORWARD,
        )
        for kind, function in (("houlsby", "gelu"), ("pfeiffer", "relu"), ("parallel", "tanh"))
    ),
    Case(
        "bitfit",
        "bitfit",
        {},
        sizes.biases,
        peft=frozenset(),
        gaps={
            **dict.fromkeys([("folding", sizes.WITHOUT_BIAS), ("stacking", sizes.WITHOUT_BIAS)], NO_BIAS),
            **dict.fromkeys(
                [
                    ("joint_equals_solo", "deberta-v2"),
                    ("joint_equals_solo_with_checkpointing", "deberta-v2"),
                    ("unrouted_rows_are_plain", "deberta-v2"),
                ],
                "its positions are projected once for all rows, with a bias that is trained",
            ),
        },
    ),
    Case("ia3", "ia3", {}, sizes.rescaled, gaps=NO_FEED_FORWARD),
    Case("ln_tuning", "ln_tuning", {}, sizes.norms),
    Case("oft", "oft", {"block_size": 4}, sizes.rotations(4, QUERY_VALUE), peft=ALL - {"gpt2"}),
    Case(
        "oft-exact",
        "oft",
        {"block_size": 8, "neumann_terms": 0},
        sizes.rotations(8, QUERY_VALUE),
        other={"block_size": 2},
        peft=ALL - {"gpt2"},
    ),
    Case(
        "miss",
        "miss",
        {"r": 3},
        lambda a: sum(3 * o for _, o in QUERY_VALUE[a]),
        other={"r": 4, "dropout": 0.2},
        peft=ALL - {"gpt2"},
    ),
    Case(
        "shira",
        "shira",
        {"r": 2},
        low_rank(2),
        other={"r": 3, "targets": ["key"]},
        peft=ALL - {"gpt2"},
    ),
    Case(
        "diff_pruning",
        "diff_pruning",
        {"targets": ["query", "value"]},
        lambda a: sum(2 * i * o for i, o in QUERY_VALUE[a]),
        other={"targets": ["key"], "alpha": 0.0},
        peft=frozenset(),
    ),
    Case(
        "diff_pruning-structured",
        "diff_pruning",
        {"targets": ["query", "value"], "structured": True},
        lambda a: sum(2 * i * o + 1 for i, o in QUERY_VALUE[a]),
        peft=frozenset(),
        gaps={("gradients_only_in_the_adapter", "*"): CLOSED_GATE},
    ),
    *(
        Case(
            f"hard_prompt-{search}",
            "hard_prompt",
            {"n_tokens": 3, "search": search},
            lambda a: 3 * D,
            identity=False,
            foldable=False,
            other={"n_tokens": 5, "search": search},
            peft=frozenset(),
            gaps={
                ("*", VISION): NO_VOCABULARY,
                ("base_unchanged_by_training", frozenset(tiny.GENERATING)): SEARCHED,
            },
        )
        for search in ("gcg", "pez")
    ),
    Case("full", "full", {}, everything, counts_head=True, routable=False, peft=frozenset()),
    Case(
        "peft-loha",
        "peft",
        {"peft_type": "LOHA", "r": 2, "alpha": 4},
        low_rank(4),
        other={"peft_type": "LOHA", "r": 3, "target_modules": ["key"]},
        peft=ALL - {"gpt2"},
        gaps={("*", "gpt2"): NO_CONV1D_IN_PEFT},
    ),
    Case(
        "peft-hra",
        "peft",
        {"peft_type": "HRA", "r": 2},
        lambda a: sum(2 * i for i, _ in QUERY_VALUE[a]),
        other={"peft_type": "LOKR", "r": 2},
        peft=ALL - {"gpt2"},
        gaps={("*", "gpt2"): NO_CONV1D_IN_PEFT, ("stacking", "*"): PEFT_REFLECTS},
    ),
    Case(
        "peft-fourierft",
        "peft",
        {"peft_type": "FOURIERFT", "n_frequency": 9, "scaling": 15.0},
        lambda a: 9 * len(QUERY_VALUE[a]),
        identity=False,
        other={"peft_type": "LORA", "r": 2, "lora_dropout": 0.1},
    ),
)
