"""What a notebook shows of a run, a plan and a look at the data."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from deltatune.board import ShownPlan, ShownPreview, Trained
from deltatune.results import RunResult
from tests.cli.test_plan import FOUND
from tests.report.classified import write_classes
from tests.report.synthetic import HOSTILE, write_comparison

EVIL = "<script>x</script>\x1b"


def page(shown: str) -> str:
    """The page in the frame, which is well-formed and runs no script."""
    [inner] = re.findall(
        r'^<iframe srcdoc="([^"]*)" width="100%" height="\d+" style="border: 0"></iframe>$', shown
    )
    found = html.unescape(inner)
    body = re.search(r"<main>.*</main>", found, re.S)
    assert body
    tags = {element.tag for element in ElementTree.fromstring(body[0]).iter()}
    assert "script" not in tags
    assert "\x1b" not in found
    assert "default-src 'none'" in html.unescape(found)
    return found


def test_a_plan() -> None:
    entries = [{**FOUND["entries"][0], "name": EVIL}, FOUND["entries"][1]]
    found = page(ShownPlan.model_validate({**FOUND, "entries": entries})._repr_html_())
    for text in ("7.50 GB", "3.00 TFLOP", "targets: no such role.", "cannot be planned", "8.00 GB"):
        assert text in found, text


def test_a_look_at_the_data() -> None:
    count = {"total": 9, "supervised": 3, "median_length": 4.5, "longest": 6,
             "truncated_inputs": 1, "truncated_targets": 0}  # fmt: skip
    tokens = [{"text": EVIL, "supervised": False}, {"text": " yes", "supervised": True}]
    sample = {"id": EVIL, "length": 2, "supervised": 1, "tokens": tokens}
    reading = {"model": "m", "reading": EVIL, "samples": [sample], "tokens": {"train": count}}
    content = {
        **reading, "models": [reading], "task": "text-to-text", "rows": {"train": 2}, "conversations": None,
        "duplicates": [], "repeated_training_rows": 0, "classes": {"train": {EVIL: 3, "no": 1}}, "shifts": [],
        "unlabelled": {}, "inputs": {}, "alike_classes": [], "joined_classes": [], "majority": None,
        "contradictions": {"inputs": 0, "examples": []}, "warnings": [EVIL],
    }  # fmt: skip
    found = page(ShownPreview.model_validate(content)._repr_html_())
    assert '<span class="token learned"> yes</span>' in found
    for text in ("2 tokens, 1 learned", "4.5", "75 %", "no 25 %", "<li>&lt;script&gt;"):
        assert text in found, text


def test_a_run(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path)
    run = next(path for path in sorted((folder / "runs").iterdir()) if "lora" in path.name)
    result = RunResult.model_validate(json.loads((run / "result.json").read_text("utf-8")))
    shown = Trained.at(run, result)
    assert (shown.folder, shown.as_dict()) == (run, result.as_dict())
    found = page(shown._repr_html_())
    for text in ("Training loss", "Validation loss", "ROUGE-L F", "checks passed", "Trained parameters"):
        assert text in found, text
    assert HOSTILE not in found


def test_a_run_of_a_classifier_shows_what_it_takes_for_what(tmp_path: Path) -> None:
    of_texts = write_comparison(tmp_path / "texts")
    content = json.loads(next(of_texts.glob("runs/*lora*/result.json")).read_text("utf-8"))
    content |= {"task": "image-classification", "name": "lora"}
    content["data"]["labels"], content["metrics"]["test"] = [EVIL, "b"], {"accuracy": 0.9}
    run = write_classes(tmp_path / "classes", labels=(EVIL, "b")) / "runs/lora-s0"
    found = page(Trained.at(run, RunResult.model_validate(content))._repr_html_())
    assert "What is taken for what" in found
    assert 'class="h8 best"' in found


@pytest.mark.parametrize("kind", [ShownPlan, ShownPreview, Trained])
def test_what_is_shown_is_a_record(kind: type) -> None:
    assert kind.__doc__
    assert hasattr(kind, "as_dict")
