"""What is no text: vectors as OpenAI's client reads them, and images that come with the request."""

from __future__ import annotations

import base64
from pathlib import Path

import openai
import pytest
from starlette.testclient import TestClient

import deltatune as dt
from deltatune.data.encode import Encoded, EncodeReport
from deltatune.data.rows import Row
from deltatune.runs.asking import line_of
from deltatune.serve.engine.engine import Engine
from deltatune.serve.http.app import build_app
from deltatune.serve.http.desk import _in_passes
from deltatune.serve.http.metrics import Metrics
from deltatune.serve.http.settings import Settings
from deltatune.testing.folders import save_tiny
from tests.serve.asking import opened
from tests.serve.test_answers import QUICK, TEXTS, rows_of
from tests.serve.tiny_runs import make_runs


def client_of(engine: Engine) -> TestClient:
    return TestClient(build_app(engine, Settings(), Metrics()), base_url="http://localhost")


def runs_of(task: str, kind: str, tmp: Path) -> dict[str, Path]:
    base = save_tiny(kind, tmp / "base")  # type: ignore[arg-type]
    recipe = {"task": task, "model": str(base), "data": rows_of(task, tmp / "rows"), "train": QUICK}
    return make_runs(tmp / "runs", recipe, {"a": {"lora": {"r": 2}}, "b": {"lora": {"r": 2}}})


@pytest.mark.slow
def test_vectors(tmp_path: Path) -> None:
    runs = runs_of("embedding", "bert", tmp_path)
    expected = {
        name: [each.vector for each in dt.predict(folder, TEXTS[:3])] for name, folder in runs.items()
    }
    engine = opened(runs)
    try:
        http = client_of(engine)
        client = openai.OpenAI(base_url="http://localhost/v1", api_key="none", http_client=http)
        for name, vectors in expected.items():
            for form in ({}, {"encoding_format": "float"}):  # by default the client asks for base64
                answer = client.embeddings.create(model=name, input=TEXTS[:3], **form)
                for found, vector in zip(answer.data, vectors, strict=True):
                    assert found.embedding == pytest.approx(vector, abs=1e-5)
        assert http.post("/v1/embeddings", json={"model": "a", "input": ["x", ""]}).status_code == 400
        wide = {"model": "a", "input": "x", "dimensions": 7}
        assert http.post("/v1/embeddings", json=wide).status_code == 400
        assert http.post("/v1/completions", json={"model": "a", "prompt": "x"}).status_code == 400
    finally:
        engine.stop()


def test_no_pass_has_more_rows_than_it_may() -> None:
    encoded = Encoded([{"input_ids": [n]} for n in range(5)], [1] * 5, EncodeReport(0, 0, 0, 0))
    rows = [Row(str(n), "", "", {}) for n in range(5)]
    parts = list(_in_passes(rows, encoded, 2))
    assert [[row.id for row in part] for part, _ in parts] == [["0", "1"], ["2", "3"], ["4"]]
    assert [feature for _, part in parts for feature in part.features] == encoded.features
    assert [part.lengths for _, part in parts] == [[1, 1], [1, 1], [1]]


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    runs = runs_of("image-classification", "vit", tmp_path)
    file = tmp_path / "rows" / "dark" / "2.png"
    [expected] = [line_of(each) for each in dt.predict(runs["a"], [str(file)])]
    engine = opened(runs)
    try:
        http = client_of(engine)
        assert {model["id"] for model in http.get("/v1/models").json()["data"]} == {"a", "b"}  # a new head
        uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        others = [str(file), f"file://{file}", "http://localhost/x.png", {"image": str(file)}, {}]
        sent = [uri, {"image": uri}, *others, "data:image/png;base64,AAAA", "data:image/png;base64,!"]
        lines = http.post("/predict", json={"model": "a", "inputs": sent}).json()["predictions"]
        assert ["error" in line for line in lines] == [False, False, *[True] * 7]
        headers = {"Content-Type": "image/png"}
        answer = http.post("/predict?model=a", content=file.read_bytes(), headers=headers)
        for line in (*lines[:2], *answer.json()["predictions"]):
            assert line["prediction"] == expected["prediction"]
            assert line["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        told = str(lines)
        assert str(tmp_path) not in told.replace(str(file), ""), "an error names a file of the server"
        assert "/tmp/deltatune-" not in told
    finally:
        engine.stop()
