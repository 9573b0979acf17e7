"""How far predictions of a step's memory are from what is measured, on small models with random weights.

Each case trains for a few steps with the real trainer, whose tensors are accounted for in the step with the
largest micro-batch, and predicts the same from the configuration alone.

    python benchmarks/memory_accuracy.py          # all cases, a few minutes on one core
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from deltatune.core.attention import EAGER_UP_TO
from deltatune.core.model import AdaptedModel
from deltatune.data.encode import Encoded, EncodeReport
from deltatune.memory.batch import largest_micro_batch
from deltatune.memory.predict import Setup, predict
from deltatune.methods import METHODS
from deltatune.models.load import DTYPES
from deltatune.models.tasks import model_class
from deltatune.observer import Silent
from deltatune.quant.loading import loading_options
from deltatune.recipe.base_sections import QuantizationSpec
from deltatune.recipe.train_section import TrainSpec
from deltatune.training.given.digests import Inputs
from deltatune.training.loop.checkpoints import Checkpoints
from deltatune.training.loop.optimizer import Rates
from deltatune.training.loop.trainer import Trainer
from deltatune.training.proof.certificate import Proof

RESULT = Path(__file__).parent / "results" / "memory_accuracy.json"
_SPECIAL = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_LLAMA = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 2000, "tie_word_embeddings": True, **_SPECIAL,
}  # fmt: skip
_BERT = {
    "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_labels": 3, "vocab_size": 3000, "pad_token_id": 0,
}  # fmt: skip
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("causal-lm", "llama", _LLAMA),
    "qwen2": ("causal-lm", "qwen2", _LLAMA),
    "gpt2": ("causal-lm", "gpt2", {"n_embd": 192, "n_layer": 3, "n_head": 6, "vocab_size": 3000, **_SPECIAL}),
    "opt": (
        "causal-lm",
        "opt",
        {"hidden_size": 128, "ffn_dim": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
         "word_embed_proj_dim": 128, "vocab_size": 3000, **_SPECIAL},
    ),
    "bloom": (
        "causal-lm", "bloom", {"hidden_size": 128, "n_layer": 3, "n_head": 4, "vocab_size": 3000, **_SPECIAL}
    ),
    "t5": (
        "text-to-text",
        "t5",
        {"d_model": 192, "d_ff": 512, "d_kv": 32, "num_layers": 3, "num_heads": 6, "vocab_size": 4000,
         "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0},
    ),
    "bart": (
        "text-to-text",
        "bart",
        {"d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 512,
         "decoder_ffn_dim": 512, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
         "vocab_size": 3000, "decoder_start_token_id": 2, "forced_eos_token_id": None, **_SPECIAL},
    ),
    "bert": ("text-classification", "bert", _BERT),
    "roberta": ("text-classification", "roberta", _BERT),
    "deberta-v2": (
        "text-classification",
        "deberta-v2",
        {**_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "share_att_key": True},
    ),
    "vit": (
        "image-classification",
        "vit",
        {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "num_attention_heads": 4,
         "image_size": 64, "patch_size": 8, "num_labels": 3},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One configuration."""

    model: str
    method: str = "lora"
    settings: str = "{}"
    batch: int = 4
    micro: int | None = None
    length: int = 64
    checkpointing: bool = False
    quantization: str | None = None
    dtype: str = "float32"
    padded: bool = True

    @property
    def label(self) -> str:
        """For tables."""
        parts = [self.model, self.method, self.quantization or self.dtype]
        parts.append(f"{self.batch}{f'/{self.micro}' if self.micro else ''} x {self.length}")
        return ", ".join(parts + ["checkpointing"] * self.checkpointing + ["unpadded"] * (not self.padded))


_ALL = '{"targets": ["all-linear"]}'
CASES = (
    Case("llama"),
    Case("llama", batch=8, length=128),
    Case("llama", settings=_ALL, batch=2, length=200),
    Case("llama", settings=_ALL, checkpointing=True, length=160),
    Case("llama", "full"),
    Case("llama", "full", dtype="bfloat16", length=96),
    Case("llama", settings=_ALL, dtype="bfloat16", batch=8),
    Case("llama", settings=_ALL, dtype="bfloat16", length=320),
    Case("llama", settings=_ALL, quantization="nf4"),
    Case("llama", settings=_ALL, quantization="nf4", checkpointing=True, batch=8, length=128),
    Case("llama", settings=_ALL, quantization="int8"),
    Case("llama", settings='{"r": 64, "dropout": 0.1}', batch=8, micro=2),
    Case("llama", "prefix", length=100),
    Case("llama", "prompt"),
    Case("llama", "dora"),
    Case("llama", "ia3", padded=False),
    Case("llama", "adapter", batch=16, length=48),
    Case("qwen2", "lora", batch=2, length=256),
    Case("qwen2", "bitfit"),
    Case("gpt2", "lora", length=128),
    Case("gpt2", "full", batch=8, micro=4),
    Case("gpt2", "lora", checkpointing=True, length=128),
    Case("opt", "lora", length=96),
    Case("bloom", "lora", length=96),
    Case("bloom", "prefix", length=96),
    Case("bloom", "prefix", length=96, checkpointing=True, padded=False),
    Case("t5", "lora", length=100),
    Case("t5", "lora", settings=_ALL, dtype="bfloat16", length=300),
    Case("t5", "full", batch=8),
    Case("t5", "prefix", batch=8, length=128),
    Case("t5", "lora", settings=_ALL, quantization="nf4", batch=8),
    Case("t5", "adalora", settings=_ALL),
    Case("t5", "lora", settings=_ALL, checkpointing=True, batch=16, micro=4),
    Case("bart", "lora"),
    Case("bart", "full", checkpointing=True, length=128),
    Case("bert", "lora", batch=16, length=32),
    Case("bert", "full", batch=8, length=128),
    Case("bert", "p_tuning_v2", batch=8),
    Case("bert", "p_tuning_v2", batch=8, padded=False),
    Case("deberta-v2", "p_tuning_v2", batch=8),
    Case("deberta-v2", "p_tuning_v2", batch=8, checkpointing=True, padded=False),
    Case("roberta", "bitfit", batch=8, length=100),
    Case("roberta", "ln_tuning", batch=8, length=100, checkpointing=True),
    Case("vit", "lora", batch=16),
    Case("vit", "full", batch=8, micro=4),
    Case("vit", "lora", settings=_ALL, quantization="int8", batch=8),
    Case("vit", "oft", batch=16, checkpointing=True),
)


class Collator:
    """Makes batches of features as the encoder does, for which it would need a tokenizer."""

    def __init__(self, task: str) -> None:
        self.task = task

    def collate(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.task == "image-classification":
            pixels = torch.stack([feature["image"] for feature in features])
            return {"pixel_values": pixels, "labels": torch.tensor([f["label"] for f in features])}
        rows = [feature["input_ids"] for feature in features]
        found = {"input_ids": padded(rows, 0), "attention_mask": padded([[1] * len(r) for r in rows], 0)}
        if self.task == "text-classification":
            return found | {"labels": torch.tensor([feature["label"] for feature in features])}
        if self.task == "text-to-text":
            return found | {"labels": padded([feature["labels"] for feature in features], -100)}
        labels = [[-100] * f["prompt_length"] + f["input_ids"][f["prompt_length"] :] for f in features]
        return found | {"labels": padded(labels, -100)}


def padded(rows: list[list[int]], value: int) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def rows_of(case: Case, task: str) -> Encoded:
    """Three batches of rows; lengths differ by up to a third if the case is padded."""
    features: list[dict[str, Any]] = []
    for i in range(3 * case.batch):
        n = case.length - (7 * i % (case.length // 3) if case.padded else 0)
        ids = [3 + (i + j) % 900 for j in range(n)]
        if task == "image-classification":
            features.append({"image": torch.randn(3, 64, 64), "label": i % 3})
        elif task == "text-classification":
            features.append({"input_ids": ids, "label": i % 3})
        elif task == "text-to-text":
            features.append({"input_ids": ids, "labels": ids[: 4 + n // 4]})
        else:
            features.append({"input_ids": ids, "prompt_length": n - n // 4})
    lengths = [len(f.get("input_ids", [0])) + len(f.get("labels", [])) for f in features]
    return Encoded(features, lengths, EncodeReport(len(features), 0, 0, 0))


def base_of(case: Case, config: Any, task: str, spec: QuantizationSpec | None) -> Any:
    """The base with random weights; quantized ones are read from a folder."""
    torch.manual_seed(0)
    model = model_class(task).from_config(config, dtype=DTYPES[case.dtype])
    if spec is None:
        return model.eval()
    from deltatune.models.weights import unquantized

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder, **loading_options(spec, unquantized(model, task))).eval()


def measured_step(
    base: Any, method: Any, task: str, encoded: Encoded, train: TrainSpec, *, heads: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Train with the real trainer until the step with the largest micro-batch has been measured."""
    model = AdaptedModel(base, heads)
    model.attach("run", method)
    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(
            model=model, name="run", encoder=Collator(task), train=encoded,  # type: ignore[arg-type]
            spec=train, evaluated_at_once=32, rates=Rates(1e-4, None), seed=0,
            out=Path(out), observer=Silent(), certificate=Proof(Path(out) / "certificate.json", {}),
            inputs=Inputs("", {}, None, "", ""), checkpoints=Checkpoints(Path(out), 0, lambda _: None),
        )  # fmt: skip
        return trainer.run(resume=False).memory


def measure(case: Case) -> dict[str, Any]:
    """Predict and measure one case."""
    task, kind, settings = MODELS[case.model]
    config = AutoConfig.for_model(kind, **settings)
    spec = QuantizationSpec(format=case.quantization, compute="fp32") if case.quantization else None
    method = METHODS.get(case.method)(**json.loads(case.settings))
    encoded = rows_of(case, task)
    train = TrainSpec(
        epochs=2,
        batch_size=case.batch,
        micro_batch_size=case.micro,
        gradient_checkpointing=case.checkpointing,
    )
    largest = largest_micro_batch(encoded, task, train, 0, after_first=True)
    if task == "image-classification":
        largest = largest.with_images(encoded.features[0]["image"][None])
    heads = ("classifier",) if "classification" in task else ()
    started = time.perf_counter()
    predicted = predict(
        Setup(
            config=config, task=task, method=method,
            shape=largest.shape, exact=largest.step,
            micro_batches=-(-case.batch // (case.micro or case.batch)), dtype=case.dtype, quantization=spec,
            checkpointing=case.checkpointing, heads=heads, eager_up_to=EAGER_UP_TO,
        )
    )  # fmt: skip
    seconds = time.perf_counter() - started
    measured = measured_step(base_of(case, config, task, spec), method, task, encoded, train, heads=heads)
    total = predicted.memory.total
    return {
        "case": case.label,
        "predicted": predicted.memory.as_dict(),
        "measured": measured,
        "error": total / measured["total"] - 1,
        "seconds": round(seconds, 2),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Median and worst absolute error."""
    errors = [abs(row["error"]) for row in rows]
    return {"cases": len(rows), "median_error": statistics.median(errors), "worst_error": max(errors)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", default="", help="beginnings of labels, parted by |; other rows are kept")
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        if not case.label.startswith(tuple(arguments.only.split("|"))):
            continue
        row = measure(case)
        rows.append(row)
        both = f"{row['predicted']['total'] / 1e6:9.2f} {row['measured']['total'] / 1e6:9.2f} MB"
        print(f"{case.label:60}{both} {row['error']:+8.2%} {row['seconds']:6.1f} s", flush=True)
    if arguments.only:  # measured anew; the others stay
        before = json.loads(arguments.out.read_text(encoding="utf-8"))["rows"]
        known = {row["case"]: row for row in [*before, *rows]}
        rows = [known[case.label] for case in CASES if case.label in known]
    found = summary(rows)
    print({key: f"{value:.2%}" if "error" in key else value for key, value in found.items()})
    content = {"torch": torch.__version__, **found, "rows": rows}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(functools.reduce(min, (torch.get_num_threads(), 2)))
    main()
