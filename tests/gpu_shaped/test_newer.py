"""What is newer than the pretended GPU: further tasks, packed rows, serving, exports, loops of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModel

import deltatune as dt
from deltatune.core.devices import to_device
from deltatune.core.model import AdaptedModel
from deltatune.evaluation.kinds.classes import classify
from deltatune.exporting.export import export
from deltatune.integrations.transformers import DeltaCallback
from deltatune.methods import METHODS
from deltatune.recipe import Recipe
from deltatune.runs import evaluate_run, merge, predict
from deltatune.testing import tiny
from deltatune.training import run
from tests.gpu_shaped.pretended import Gpu
from tests.serve.asking import answers, opened
from tests.serve.tiny_runs import make_runs
from tests.tiny_recipe import WORDS

Make = Callable[..., Recipe]

ROWS: dict[str, list[dict[str, Any]]] = {
    "embedding": [{"query": f"{n} {w}", "positive": f"the {w} are {n}"} for n, w in enumerate(WORDS * 4)],
    "text-similarity": [
        {"sentence1": f"{n} {w}", "sentence2": f"the {WORDS[n % 3]}", "score": float(n % 3 == n % 8)}
        for n, w in enumerate(WORDS * 4)
    ],
    "token-classification": [
        {"tokens": ["the", w, "of", str(n)], "tags": ["O", "B-X" if n % 2 else "O", "O", "B-N"]}
        for n, w in enumerate(WORDS * 4)
    ],
    "multi-label-classification": [
        {"input": f"{n} {w}", "target": [name for name in ("a", "b") if n % (2 + (name == "b")) == 0]}
        for n, w in enumerate(WORDS * 4)
    ],
    "text-classification": [
        {"premise": f"the {w} {n}", "hypothesis": f"a {WORDS[n % 2]}", "label": "ab"[n % 2]}
        for n, w in enumerate(WORDS * 4)
    ],
    "text-regression": [{"input": f"{n} {w}", "target": n / 7} for n, w in enumerate(WORDS * 4)],
}
ASKED: dict[str, Any] = {
    "text-similarity": {"sentence1": "3 ships", "sentence2": "the goals"},
    "text-classification": {"premise": "the ships 3", "hypothesis": "a goals"},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", ROWS)
def test_a_run_of_a_task_and_what_is_done_with_it(
    gpu: Any, bert_folder: Path, tmp_path: Path, task: str
) -> None:
    recipe = dt.make_recipe(
        task=task, model=str(bert_folder), methods=["lora"], baselines=False,
        data={"source": ROWS[task], "split": {"validation": 0.2, "test": 0.3}},
        train={"max_steps": 3, "batch_size": 8, "micro_batch_size": 4, "precision": "fp32"},
        evaluation={"batch_size": 4},
    )  # fmt: skip
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert result.status == "done"
    assert evaluate_run(tmp_path / "run") == pytest.approx(result.metrics.test, rel=1e-4, abs=1e-4)
    assert len(list(predict(tmp_path / "run", [ASKED.get(task, "3 ships")]))) == 1
    assert merge(tmp_path / "run", tmp_path / "merged", device="auto").max_abs_logit_difference < 1e-4


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_nobody_looks_whether_texts_are_padded(
    counting: Gpu, bert_folder: Path, training: bool, padded: bool
) -> None:
    """Of several texts a row, and of rows whose classes are asked for in an evaluation."""
    model = AdaptedModel(AutoModel.from_pretrained(bert_folder).to(counting.device))
    model.attach("a", METHODS.get("lora")())
    mask = torch.ones(3, 2, 6, dtype=torch.long)
    mask[0, 1, 4:] = int(not padded)
    batch = to_device(
        {"input_ids": torch.arange(36).view(3, 2, 6) % 7, "attention_mask": mask}, counting.device
    )
    counting.waits.clear()
    model.train(training)
    vectors = model.text_vectors(batch)
    assert counting.waited == 0
    alone = {name: batch[name][:1, 1:, : 4 if padded else 6] for name in batch}
    assert torch.allclose(model.eval().text_vectors(alone)[0, 0], vectors[0, 1], atol=1e-5)


def test_classes_are_told_without_looking(counting: Gpu) -> None:
    model = AdaptedModel(tiny.model("bert").to(counting.device), tiny.heads("bert"))
    batch = to_device(tiny.batch("bert"), counting.device)
    counting.waits.clear()
    classify(SimpleNamespace(model=model), batch)  # type: ignore[arg-type]
    assert [kind for kind, _ in counting.waits.elements()] == ["copy to the host"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_packed_rows(gpu: Any, llama_folder: Path, make_recipe: Make, tmp_path: Path, method: str) -> None:
    recipe = make_recipe(
        "train.max_steps=3", "train.precision=fp32", "data.packing=true", "evaluation.max_new_tokens=2",
        task="causal-lm", model=str(llama_folder), methods=[method],
    )  # fmt: skip
    assert run(recipe, recipe.methods[0], 0, tmp_path / "run").status == "done"


@pytest.mark.slow
def test_several_deltas_are_served(gpu: Any, llama_folder: Path, tmp_path: Path) -> None:
    texts = [{"input": f"{n} of the {WORDS[n % 8]}", "target": WORDS[n % 8]} for n in range(24)]
    recipe = {
        "task": "causal-lm", "model": str(llama_folder),
        "data": {"source": texts, "split": {"validation": 0.1, "test": 0.1}, "template": "chat"},
        "train": {"max_steps": 1, "batch_size": 4, "precision": "fp32"},
        "evaluation": {"metrics": ["loss"], "primary": "loss", "max_new_tokens": 8},
    }  # fmt: skip
    kinds: dict[str, Any] = {
        "lora": {"lora": {"r": 2}},
        "prefix": {"prefix": {"n_tokens": 3}},
        "full": {"full": {}},
    }
    runs = make_runs(tmp_path, recipe, kinds)
    engine = opened(runs)
    try:
        asked = [(name, text) for name in runs for text in ("medals", "of the ships and so on")]
        assert answers(engine, asked, together=True) == answers(engine, asked, together=False)
    finally:
        engine.stop()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["merged", "lora", "peft", "vllm", "gguf", "gguf-lora"])
def test_a_run_is_exported(
    gpu: Any, llama_folder: Path, make_recipe: Make, tmp_path: Path, target: str
) -> None:
    recipe = make_recipe(
        "train.max_steps=2", "train.precision=fp32", "evaluation.max_new_tokens=2",
        task="causal-lm", model=str(llama_folder),
    )  # fmt: skip
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "out", target=target, device="auto")
    assert done.folder is not None


@pytest.mark.slow
def test_a_classifier_is_exported_for_onnx(gpu: Any, make_classifier: Make, tmp_path: Path) -> None:
    recipe = make_classifier()
    run(recipe, recipe.methods[0], 0, tmp_path / "run")
    assert export(tmp_path / "run", tmp_path / "out", target="onnx", device="auto").folder is not None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "adalora", "prefix"])
def test_a_loop_of_ones_own_with_its_promises(
    gpu: Any, tiny_on_gpu: None, tmp_path: Path, method: str
) -> None:
    model = dt.adapt(tiny.model("llama"), METHODS.get(method)())
    with dt.own_loop(model, steps=4, out=tmp_path) as loop:
        optimizer = torch.optim.AdamW(loop.parameters(lr=1e-2))
        for seed in range(4):
            model(**tiny.batch("llama", seed=seed)).loss.backward()
            loop.step(optimizer)
    assert loop.certificate.passed
    again = AdaptedModel(tiny.model("llama"))
    again.load(tmp_path / "adapter")


@pytest.mark.slow
def test_the_trainer_of_transformers(gpu: Any, tiny_on_gpu: None, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    batch = {name: tensor.cpu() for name, tensor in tiny.batch("llama").items()}
    rows = [{name: tensor[row].tolist() for name, tensor in batch.items()} for row in range(4)] * 2
    delta = DeltaCallback(dt.adapt(tiny.model("llama"), METHODS.get("lora")()))
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[],
        save_strategy="no", dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(delta.model, arguments, train_dataset=rows, callbacks=[delta])
    trainer.train()
    assert delta.certificate.passed
    assert isinstance(gpu, Gpu) or gpu.device
