"""The server as its clients see it: OpenAI's own client, and others that mean harm."""

from __future__ import annotations

import itertools
import json
import math
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM

import deltatune as dt
from deltatune.serve.engine.engine import Engine
from deltatune.serve.engine.lanes import Lanes
from deltatune.serve.engine.limits import Limits
from deltatune.serve.http import server
from deltatune.serve.http.app import build_app
from deltatune.serve.http.metrics import Metrics
from deltatune.serve.http.settings import Settings
from deltatune.serve.refusal import Refusal
from tests.serve.asking import held, opened, writing
from tests.serve.conftest import Place
from tests.serve.test_engine import prompt

TEXT = "3 of the medals"
ASK: Any = [{"role": "user", "content": TEXT}]


@pytest.fixture
def client(place: Place) -> openai.OpenAI:
    return place.client()


def test_a_chat_says_what_predict_says(client: openai.OpenAI, runs: dict[str, Path]) -> None:
    assert {model.id for model in client.models.list()} >= {"lora", "prompt", "full", "base"}
    for name in ("lora", "prompt", "full"):
        [expected] = dt.predict(runs[name], [TEXT])
        answer = client.chat.completions.create(model=name, messages=ASK, max_tokens=8)
        [choice] = answer.choices
        assert (choice.message.content, choice.message.role) == (expected.prediction, "assistant")
        assert choice.finish_reason == ("stop" if expected.stopped else "length")
        chunks = list(
            client.chat.completions.create(
                model=name, messages=ASK, max_tokens=8, stream=True, stream_options={"include_usage": True}
            )
        )
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == expected.prediction
        assert all(choice.logprobs is None for chunk in chunks for choice in chunk.choices)
        assert chunks[-1].usage == answer.usage
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == choice.finish_reason
        predicted = client.post("/../predict", body={"model": name, "input": TEXT}, cast_to=object)
        assert predicted["predictions"][0]["prediction"] == expected.prediction


def test_log_probabilities_are_the_models_own(client: openai.OpenAI, engine: Engine) -> None:
    run = engine.pool.get("base").run
    ids = run.encoder.tokens.prompt("what a", 64)[0]
    plain = AutoModelForCausalLM.from_pretrained(run.base.name)
    with torch.no_grad():
        scores = plain(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    answer = client.completions.create(model="base", prompt="what a", max_tokens=3, logprobs=4)
    found = answer.choices[0].logprobs
    assert found.token_logprobs[0] == pytest.approx(float(scores.max()), abs=1e-5)
    assert sorted(found.top_logprobs[0].values()) == pytest.approx(
        sorted(scores.topk(4).values.tolist()), abs=1e-5
    )
    assert "".join(found.tokens).startswith(answer.choices[0].text.rstrip("\N{REPLACEMENT CHARACTER}"))
    chat = client.chat.completions.create(
        model="lora", messages=ASK, max_tokens=3, logprobs=True, top_logprobs=2
    )
    content = chat.choices[0].logprobs.content
    assert [len(each.top_logprobs) for each in content] == [2, 2, 2]
    assert all(each.logprob == max(top.logprob for top in each.top_logprobs) for each in content)
    by_ids = client.completions.create(model="base", prompt=ids, max_tokens=3)
    assert by_ids.choices[0].text == answer.choices[0].text


def test_an_answer_ends_before_what_it_shall_stop_at(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="lora", prompt=TEXT, max_tokens=40).choices[0].text
    stop = whole[5:8]
    cut = whole[: whole.index(stop)]
    ways: list[Any] = [
        stop,
        [stop],
        ["\N{SNOWMAN}\ud83d\ude80".encode("utf-16", "surrogatepass").decode("utf-16"), stop],
    ]
    for way in ways:
        answer = client.completions.create(model="lora", prompt=TEXT, max_tokens=40, stop=way)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (cut, "stop")
        pieces = list(
            client.completions.create(model="lora", prompt=TEXT, max_tokens=40, stop=way, stream=True)
        )
        assert "".join(piece.choices[0].text for piece in pieces) == cut
        assert all(piece.choices[0].logprobs is None for piece in pieces)


def post(place: Place, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{place.url}{path}", json=body, timeout=30)


CHAT = "/v1/chat/completions"
REFUSED: dict[str, tuple[str, Any, int, str]] = {
    "unknown model": (CHAT, {"model": "nobody", "messages": ASK}, 404, "model_not_found"),
    "no messages": (CHAT, {"model": "lora", "messages": []}, 400, "invalid"),
    "an odd role": (CHAT, {"model": "lora", "messages": [{"role": "x", "content": ""}]}, 400, "invalid"),
    "an image": (CHAT, {"model": "lora", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                 400, "invalid"),
    "nothing said": (CHAT, {"model": "lora", "messages": [{"role": "user", "content": " "}]}, 400, "invalid"),
    "the assistant last": (CHAT, {"model": "lora", "messages": [*ASK, {"role": "assistant", "content": "a"}]},
                           400, "invalid"),
    "two answers": (CHAT, {"model": "lora", "messages": ASK, "n": 2}, 400, "invalid"),
    "a penalty": (CHAT, {"model": "lora", "messages": ASK, "presence_penalty": 1}, 400, "invalid"),
    "tools": (CHAT, {"model": "lora", "messages": ASK, "tools": [{}]}, 400, "invalid"),
    "a tool's call": (CHAT, {"model": "lora", "messages": ASK, "tool_choice": "required"}, 400, "invalid"),
    "speech": (CHAT, {"model": "lora", "messages": ASK, "modalities": ["audio"]}, 400, "invalid"),
    "hot": (CHAT, {"model": "lora", "messages": ASK, "temperature": 1e9}, 400, "invalid"),
    "an empty stop": (CHAT, {"model": "lora", "messages": ASK, "stop": ""}, 400, "invalid"),
    "many tokens": (CHAT, {"model": "lora", "messages": ASK, "max_tokens": 10**6}, 400, "invalid"),
    "more texts than may wait": ("/v1/completions", {"model": "lora", "prompt": ["a"] * 17}, 400, "invalid"),
    "very many": (CHAT, {"model": "lora", "messages": ASK, "max_tokens": 10**40}, 400, "invalid"),
    "a long text": (CHAT, {"model": "lora", "messages": [{"role": "user", "content": "word " * 900}]},
                    400, "context_length_exceeded"),
    "a longer text": ("/v1/completions", {"model": "lora", "prompt": "word " * 900}, 400,
                      "context_length_exceeded"),
    "an endless text": ("/v1/completions", {"model": "lora", "prompt": "a" * 10**6}, 400,
                        "context_length_exceeded"),
    "strange ids": ("/v1/completions", {"model": "lora", "prompt": [10**9]}, 400, "invalid"),
    "an echo": ("/v1/completions", {"model": "lora", "prompt": "a", "echo": True}, 400, "invalid"),
    "no vectors": ("/v1/embeddings", {"model": "lora", "input": "a"}, 400, "invalid"),
    "no input": ("/predict", {"model": "lora"}, 400, "invalid"),
    "many inputs": ("/predict", {"model": "lora", "inputs": ["a"] * 65}, 400, "invalid"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_is_refused_in_openais_form(place: Place, case: str) -> None:
    path, body, status, code = REFUSED[case]
    answer = post(place, path, **body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]


RAW = {
    "no JSON": b"{",
    "not UTF-8": b'{"model": "\xff"}',
    "half a character": b'{"model": "lora", "prompt": "\\ud800"}',
    "deep": b"[" * 100_000,
    "no object": b"[1]",
    "nothing": b"",
    "not a number": b'{"model": "lora", "prompt": "a", "temperature": NaN}',
    "without end": b'{"model": "lora", "prompt": "a", "top_p": Infinity}',
    "a text for a number": b'{"model": "lora", "prompt": "a", "max_tokens": "9"}',
}


@pytest.mark.parametrize("case", RAW)
def test_bodies_that_are_none(place: Place, case: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{place.url}/v1/completions", content=RAW[case], headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_clients_raise_what_they_know(place: Place, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no 'nobody' here"):
        client.chat.completions.create(model="nobody", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="n: 2 is not offered here") as refused:
        client.chat.completions.create(model="lora", messages=ASK, n=2)
    assert (refused.value.param, "record" in str(refused.value)) == ("n", False)
    works = [writing(place.engine, "lora", prompt(place.engine, "lora", "a", 1)) for _ in range(16)]
    with held(place.engine):
        place.engine.submit(*works)
        with pytest.raises(openai.RateLimitError) as busy:
            client.chat.completions.create(model="lora", messages=ASK)
        assert busy.value.response.headers["Retry-After"] == "1"
    [work.tell.last() for work in works]


def test_what_is_not_finished_when_it_ends_is_told_so(runs: dict[str, Path]) -> None:
    engine = opened({"lora": runs["lora"]})
    with held(engine):
        works = [writing(engine, "lora", prompt(engine, "lora", "a", 200)) for _ in range(2)]
        engine.submit(*works)
        engine.end()
    for work in works:
        told = work.tell.last()
        assert isinstance(told, Refusal)
        assert told.reason == "stopping"
    engine.stop()


def test_bad_lines_of_predict_stand_in_their_places(place: Place) -> None:
    answer = post(place, "/predict", model="lora", inputs=["a", "", {"input": "b"}, {"none": "c"}])
    lines = answer.json()["predictions"]
    assert [line["id"] for line in lines] == ["0", "1", "2", "3"]
    assert ["error" in line for line in lines] == [False, True, False, True]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "192.168.0.7"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "localhost.rebound.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Content-Type": "text/plain"}, 400),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 400),
        ({"Content-Length": "99999999999"}, 413),
        ({"Content-Length": "-1"}, 413),
    ],
)
def test_pages_of_others_and_large_bodies_are_kept_out(
    engine: Engine, headers: dict[str, str], status: int
) -> None:
    app = TestClient(build_app(engine, Settings(), Metrics()), base_url="http://localhost")
    content = json.dumps({"model": "lora", "prompt": "a", "max_tokens": 1})
    given = {"Content-Type": "application/json", **headers}
    answer = app.post("/v1/completions", content=content, headers=given)
    assert answer.status_code == status, answer.text


def test_without_the_token_nothing_is_told(engine: Engine) -> None:
    app = TestClient(build_app(engine, Settings(token="sesame"), Metrics()), base_url="http://localhost")
    assert app.get("/health").status_code == 200
    assert app.get("/").headers["content-type"].startswith("text/html")  # the playground asks for it
    for path in ("/v1/models", "/playground/models", "/metrics", "/admin/deltas", "/no/such/path"):
        answer = app.get(path)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        for wrong in ("Bearer sesam", "Bearer ", "sesame1", "sesame", "Basic sesame", "Bearer s\xe9same"):
            given = {"Authorization": wrong.encode("latin-1")}
            assert app.get(path, headers=given).status_code == 401  # type: ignore[arg-type]
    for right in ("Bearer sesame", "bearer sesame"):  # a scheme is written in any case
        assert app.get("/v1/models", headers={"Authorization": right}).status_code == 200


def test_a_body_that_grows_beyond_the_limit_is_not_kept(engine: Engine) -> None:
    settings = Settings(limits=Limits(body=1000))
    app = TestClient(build_app(engine, settings, Metrics()), base_url="http://localhost")
    headers = {"Content-Type": "application/json"}
    answer = app.post("/predict", content=(b"x" * 600 for _ in range(3)), headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_runs_come_and_go_while_it_serves(place: Place, runs: dict[str, Path], client: openai.OpenAI) -> None:
    added = post(place, "/admin/deltas", folder="prefix")
    assert (added.status_code, added.json()["id"]) == (201, "prefix")
    [expected] = dt.predict(runs["prefix"], [TEXT])
    answer = client.chat.completions.create(model="prefix", messages=ASK, max_tokens=8)
    assert answer.choices[0].message.content == expected.prediction
    assert post(place, "/admin/deltas", folder="prefix").status_code == 400
    with httpx.stream(
        "POST", f"{place.url}/v1/completions",
        json={"model": "prefix", "prompt": "a", "max_tokens": 60, "stream": True},
    ) as stream:  # fmt: skip
        lines = stream.iter_lines()
        next(lines)
        assert httpx.delete(f"{place.url}/admin/deltas/prefix").json()["deleted"]
        assert list(lines)[-2:] == ["data: [DONE]", ""]  # who was being answered gets the rest
    assert post(place, CHAT, model="prefix", messages=ASK).status_code == 404
    assert httpx.delete(f"{place.url}/admin/deltas/base").status_code == 400
    until = time.monotonic() + 10
    while len(place.engine.pool.model.adapters) > 3 and time.monotonic() < until:
        place.engine.call(lambda _: None).result(10)
    assert len(place.engine.pool.model.adapters) == 3


@pytest.mark.parametrize(
    "folder",
    ["..", "../runs", "/etc", "lora/../../x", "no", ".", "", "link", "lora\0", "a" * 999, "lora/adapter.py"],
)
def test_only_runs_within_the_folder_may_be_added(
    engine: Engine, runs: dict[str, Path], tmp_path: Path, folder: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(runs["prefix"])
    settings = Settings(runs=root)
    app = TestClient(build_app(engine, settings, Metrics()), base_url="http://localhost")
    before = [served.name for served in engine.pool.served]
    assert app.post("/admin/deltas", json={"folder": folder}).status_code == 400
    assert [served.name for served in engine.pool.served] == before
    bare = TestClient(build_app(engine, Settings(), Metrics()), base_url="http://localhost")
    assert bare.post("/admin/deltas", json={"folder": "lora"}).status_code == 403
    assert bare.delete("/admin/deltas/lora").status_code == 403


def test_the_row_of_who_leaves_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps, written, left = Lanes.step, itertools.count(), threading.Event(), threading.Event()

    def halting(lanes: Lanes, group: Any) -> None:
        """Write a few tokens, and no more before the reader has left: else the text may be at its end."""
        if next(steps) == 10:
            written.set()
            assert left.wait(60)
        step(lanes, group)

    monkeypatch.setattr(Lanes, "step", halting)
    body = {"model": "lora", "prompt": "a", "max_tokens": 200, "temperature": 0.0}
    with httpx.stream("POST", f"{place.url}/v1/completions", json={**body, "stream": True}) as stream:
        lines = stream.iter_lines()  # kept: who lets it go leaves
        next(lines)
        assert written.wait(60)
        assert place.engine.active == 1
    _until(lambda: all(work.cancelled for work in place.engine._lanes.works))
    assert place.engine.active == 1
    left.set()
    _until(lambda: (place.engine.active, place.engine.waiting) == (0, 0))
    for more in ({}, {"stream": True}):  # before anything is told
        with held(place.engine):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{place.url}/v1/completions", json={**body, **more}, timeout=0.1)
            _until(lambda: {work.cancelled for work in place.engine._queue} == {True})
        _until(lambda: (place.engine.active, place.engine.waiting) == (0, 0))


def _until(reached: Callable[[], bool]) -> None:
    """Wait for what other threads do, however busy the machine is."""
    latest = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < latest, "it did not come to that"
        time.sleep(0.005)


def test_prometheus_reads_what_was_done(place: Place) -> None:
    post(place, CHAT, model="lora", messages=ASK, max_tokens=2)
    post(place, CHAT, model="<script>", messages=ASK)
    text = httpx.get(f"{place.url}/metrics").text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    names = {name for name, *_ in samples}
    assert names >= {"deltatune_requests_total", "deltatune_queue_requests", "deltatune_batch_rows_bucket",
                     "deltatune_tokens_total", "deltatune_first_token_seconds_count"}  # fmt: skip
    counts = {key: value for key, value in samples.items() if key[0] == "deltatune_requests_total"}
    assert counts["deltatune_requests_total", *sorted((CHAT, "200", "lora"))] >= 1
    assert not any("script" in part for key in samples for part in map(str, key))
    assert all(math.isfinite(value) for value in samples.values())


def test_a_head_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, place: Place) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    host, port = place.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-")
        assert post(place, CHAT, model="lora", messages=ASK, max_tokens=1).status_code == 200
        assert slow.recv(1) == b""  # closed
