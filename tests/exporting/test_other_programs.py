"""`deltatune export` to GGUF, to LoRA for llama.cpp and to ONNX: from a run to files, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from typer.testing import CliRunner

import deltatune as dt
from deltatune.cli.app import app
from deltatune.core.pooling import POOLINGS
from deltatune.errors import AdapterError, DeltatuneError, ModelError
from deltatune.exporting.export import export
from deltatune.exporting.onnx import form_of, session_of, write_onnx
from deltatune.exporting.target import Settings
from deltatune.testing import tiny
from deltatune.testing.folders import save_tiny
from tests.pages.blocks import blocks_of
from tests.tiny_recipe import unpredicted

__all__ = ["unpredicted"]
pytestmark = pytest.mark.filterwarnings("ignore")  # rows are alike; the exporter warns of its own code
WORDS = ("medals", "goals", "songs", "ships")
Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train two steps on a tiny base, once for each set of arguments; give the run's folder."""
    place, made = tmp_path_factory.mktemp("runs"), dict[str, Path]()
    rows = [{"text": f"{i} of the {WORDS[i % 4]}", "title": WORDS[i % 4]} for i in range(40)]
    (place / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def train(base: str, task: str, method: str = "lora") -> Path:
        key = f"{base} {task} {method}"
        template = {"template": "Text: {text}\n"} if base == "llama" else {}
        if key not in made:
            folder = place / base
            if not folder.exists():
                save_tiny(base, folder)  # type: ignore[arg-type]
            recipe: dict[str, Any] = {
                "task": task,
                "model": str(folder),
                "data": {
                    "source": str(place / "rows.jsonl"),
                    "columns": {"input": "text", "target": "title"},
                    "split": {"validation": 0.2, "test": 0.2},
                    **template,
                },
                "methods": [method],
                "train": {"max_steps": 2, "batch_size": 8, "lr": 0.05, "precision": "fp32"},
                "evaluation": {"max_new_tokens": 4} if task == "causal-lm" else {},
            }
            made[key] = place / f"run-{len(made)}"
            dt.train(recipe, out=made[key])
        return made[key]

    return train


def test_a_run_becomes_a_file_and_a_modelfile(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export(run("llama", "causal-lm"), out, target="gguf", settings=Settings())
    assert {path.name for path in out.iterdir()} >= {
        "model.gguf",
        "Modelfile",
        "certificate.json",
        "export.json",
    }
    [compared] = done.compared
    assert compared.computed_by.startswith("transformers")
    assert compared.largest_difference < compared.effect / 2
    lines = (out / "Modelfile").read_text().splitlines()
    assert lines[-5:-2] == ["FROM ./model.gguf", 'TEMPLATE """Text: {{ .Prompt }}', '"""']
    assert lines[-2:] == ['PARAMETER stop "</s>"', "PARAMETER temperature 0"]
    checks = {
        line["check"]: line["passed"] for line in json.loads((out / "certificate.json").read_text())["lines"]
    }
    assert checks["GGUF file is the same"]


def test_a_delta_becomes_factors_that_compute_the_same(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = export(run("llama", "causal-lm"), out, target="gguf-lora", settings=Settings(rows=0))
    assert done.exact
    assert done.compared[0].largest_difference < 1e-6
    names = {tensor.name for tensor in gguf.GGUFReader(out / "adapter.gguf").tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.attn_v.weight.lora_b"} <= names
    assert "ADAPTER ./adapter.gguf" in (out / "Modelfile").read_text()


@pytest.mark.parametrize(
    ("base", "task", "method", "target", "said"),
    [
        ("llama", "causal-lm", "prompt", "gguf", "adds tokens and cannot be written into weights"),
        ("llama", "causal-lm", "prompt", "gguf-lora", "no change of weights"),
        ("bert", "text-classification", "lora", "gguf-lora", "classifier.*--as gguf"),
        ("llama", "causal-lm", "lora", "onnx", "writes texts.*--as gguf"),
    ],
)
def test_what_has_no_such_form_is_refused_and_leaves_nothing(  # noqa: PLR0917 - pytest passes by name
    base: str, task: str, method: str, target: str, said: str, run: Run, tmp_path: Path
) -> None:
    with pytest.raises((AdapterError, ModelError), match=said):
        export(run(base, task, method), tmp_path / "out", target=target)
    assert not list(tmp_path.iterdir())


def test_a_type_that_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DeltatuneError, match=r"'q4_k' is no type.*f32, f16, bf16, q8_0"):
        export(run("llama", "causal-lm"), tmp_path / "out", target="gguf", settings=Settings(dtype="q4_k"))


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    folder = str(run("llama", "causal-lm"))
    for target in ("gguf", "gguf-lora"):
        asked = ["export", folder, str(tmp_path / "out"), "--as", target, "--dry-run", "--json"]
        answer = CliRunner().invoke(app, asked)
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["folder"] is None
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModelError, match=r"pip install 'deltatune\[gguf\]'"):
        export(run("llama", "causal-lm"), tmp_path / "out", target="gguf")


@pytest.mark.slow
def test_a_classifier_is_used_as_the_page_shows(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run("bert", "text-classification")
    done = export(folder, tmp_path / "classifier", target="onnx")
    assert done.compared[0].computed_by.startswith("onnxruntime")
    assert done.compared[0].largest_difference < 1e-5
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in blocks_of("docs/how-to/use-elsewhere.md") if block.language == "python"]
    names: dict[str, Any] = {}
    exec(compile(block.code, str(block), "exec"), names)
    texts = ["3 of the songs", "14 of the medals and more", "goals"]
    wanted = [prediction.as_dict()["prediction"] for prediction in dt.predict(folder, texts)]
    assert names["classify"](texts) == wanted


@pytest.mark.slow
def test_an_encoder_gives_vectors_of_length_1(run: Run, tmp_path: Path) -> None:
    done = export(run("bert", "embedding"), tmp_path / "out", target="onnx")
    assert done.compared[0].largest_difference < 1e-5
    session = session_of(tmp_path / "out" / "model.onnx")
    ids = np.array([[2, 5, 6, 3], [2, 7, 3, 0]])
    [found] = session.run(
        ["sentence_embedding"], {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
    )
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*tiny.CLASSIFIERS, "bert-tags", "roberta-tags", "llama-tags"])
def test_every_encoder_and_model_of_images_becomes_onnx(name: str, tmp_path: Path) -> None:
    made = tiny.model(name)
    image = (3, tiny.IMAGE, tiny.IMAGE) if name in tiny.VISION else None
    form = form_of(made.config, image=image, writes=False, pooling=None)
    assert write_onnx(made, form, tmp_path) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLINGS)
def test_every_pooling_becomes_onnx(pooling: str, tmp_path: Path) -> None:
    made = tiny.model("bert").bert
    form = form_of(made.config, image=None, writes=False, pooling=pooling)
    assert write_onnx(made, form, tmp_path) < 1e-5


@pytest.mark.slow
def test_a_large_model_has_its_weights_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltatune.exporting.onnx._LIMIT", 1000)
    made = tiny.model("bert")
    write_onnx(made, form_of(made.config, image=None, writes=False, pooling=None), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}


@pytest.mark.slow
def test_images_become_onnx(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("light", "dark"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(12):
            shade = (200 if name == "light" else 40) + index
            Image.new("RGB", (8, 8), (shade, shade, shade)).save(tmp_path / "images" / name / f"{index}.png")
    recipe = {
        "task": "image-classification",
        "model": str(save_tiny("vit", tmp_path / "vit")),
        "data": {"source": str(tmp_path / "images"), "split": {"validation": 0.2, "test": 0.2}},
        "methods": ["lora"],
        "train": {"max_steps": 2, "batch_size": 8, "precision": "fp32"},
    }
    dt.train(recipe, out=tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "out", target="onnx")
    assert done.compared[0].largest_difference < 1e-5
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
