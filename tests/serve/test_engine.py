"""The engine without HTTP: rows that join and leave, deltas that come and go, what is too much."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

import deltatune as dt
from deltatune.errors import AdapterError
from deltatune.runs.asking import line_of
from deltatune.serve.deltas.opening import named, require_one_base
from deltatune.serve.engine.engine import Engine
from deltatune.serve.engine.prompts import Prompt, Prompts
from deltatune.serve.engine.sampling import Sampling
from deltatune.serve.engine.work import Piece, Written
from deltatune.serve.refusal import Refusal
from tests.serve.asking import answers, held, opened, writing

TEXTS = ["medals and goals", "what", "of the ships and so on and so on and so on"]


def prompt(engine: Engine, name: str, text: str, most: int = 8) -> Prompt:
    return Prompts(engine.limits).raw(engine.pool.get(name), text, most)


def test_what_joins_midway_is_written_as_alone(engine: Engine, runs: dict[str, Path]) -> None:
    names = [served.name for served in engine.pool.served]
    asked = [(name, text) for text in TEXTS for name in names]
    expected = answers(engine, asked, together=False)
    for name in set(names) - {"base"}:
        predicted = [line_of(each) for each in dt.predict(runs[name], TEXTS)]
        alone = [line for (of, _), line in zip(asked, expected, strict=True) if of == name]
        assert [line["prediction"] for line in alone] == [line["prediction"] for line in predicted]
    assert answers(engine, asked, together=True) == expected
    works = [writing(engine, name, prompt(engine, name, TEXTS[2], 40)) for name in names]
    late = writing(engine, "lora", prompt(engine, "lora", TEXTS[0]), in_pieces=True)
    alone = writing(engine, "lora", prompt(engine, "lora", TEXTS[0]))
    engine.submit(*works)
    while not engine.active:
        time.sleep(0.001)
    engine.submit(late)
    joined = late.tell.last()
    [work.tell.last() for work in works]
    engine.submit(alone)
    assert joined.text == alone.tell.last().text


def test_a_delta_that_replaces_weights_has_batches_of_its_own(engine: Engine) -> None:
    mixes = {served.name: served.mixes for served in engine.pool.served}
    assert mixes == {"lora": True, "prompt": True, "full": False, "base": True}
    assert all(served.joins for served in engine.pool.served)


def test_a_row_that_nobody_wants_leaves_and_the_others_go_on(engine: Engine) -> None:
    stays = writing(engine, "lora", prompt(engine, "lora", TEXTS[0], 30))
    goes = writing(engine, "prompt", prompt(engine, "prompt", TEXTS[1], 200), in_pieces=True)
    with held(engine):
        engine.submit(stays, goes)
    assert isinstance(goes.tell.first(), Piece)
    engine.cancel(goes)
    told = goes.tell.last()
    assert isinstance(told, Refusal)
    assert told.reason == "gone"
    left = stays.tell.last()
    engine.submit(again := writing(engine, "lora", prompt(engine, "lora", TEXTS[0], 30)))
    assert (left.text, len(left.tokens)) == (again.tell.last().text, 30)
    engine.call(lambda _: None).result(10)  # between two passes
    engine.call(lambda _: None).result(10)
    assert engine.active == 0


def test_what_is_too_late_is_refused_in_the_queue_and_in_the_batch(engine: Engine) -> None:
    waits = writing(engine, "lora", prompt(engine, "lora", "a"))
    runs = writing(engine, "lora", prompt(engine, "lora", "a", 250))
    waits.deadline = time.monotonic() - 1
    runs.deadline = time.monotonic() + 0.02
    with held(engine):
        engine.submit(waits, runs)
    assert {waits.tell.last().reason, runs.tell.last().reason} == {"late"}


def test_a_full_queue_takes_no_more(engine: Engine) -> None:
    works = [writing(engine, "lora", prompt(engine, "lora", "a", 1)) for _ in range(17)]
    with held(engine):
        engine.submit(*works[:16])
        with pytest.raises(Refusal, match="16 requests wait already"):
            engine.submit(works[16])
    assert all(isinstance(work.tell.last(), Written) for work in works[:16])


def test_one_that_fails_does_not_take_others_along(engine: Engine) -> None:
    works = [writing(engine, "lora", prompt(engine, "lora", "a", 2)) for _ in range(3)]
    works[1].prompt = [10**6]  # no such embedding
    with held(engine):
        engine.submit(*works)
    told = [work.tell.last() for work in works]
    assert [isinstance(each, Written) for each in told] == [True, False, True]
    assert told[1].reason == "failed"


def test_a_batch_that_does_not_fit_fails_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltatune.serve.engine import lanes

    def full(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")

    with monkeypatch.context() as patched:
        patched.setattr(lanes, "Lane", full)
        engine.submit(work := writing(engine, "lora", prompt(engine, "lora", "a", 2)))
        assert work.tell.last().reason == "memory"
    engine.submit(again := writing(engine, "lora", prompt(engine, "lora", "a", 2)))
    assert isinstance(again.tell.last(), Written)


def test_what_is_drawn_depends_on_the_seed_and_not_on_the_batch(engine: Engine) -> None:
    drawn = Sampling(temperature=2.0, top_p=0.95, top_k=40, seed=5)

    def works(seed: int | None) -> list[str]:
        made = [
            writing(engine, name, prompt(engine, name, "a", 12),
                    sampling=Sampling(2.0, 0.95, 40, 5 if name == "lora" else seed))
            for name in ("lora", "prompt", "base")
        ]  # fmt: skip
        with held(engine):
            engine.submit(*made)
        return [work.tell.last().text for work in made]

    engine.submit(alone := writing(engine, "lora", prompt(engine, "lora", "a", 12), sampling=drawn))
    text = alone.tell.last().text
    first, second = works(1), works(2)
    assert first[0] == second[0] == text
    assert first[1:] != second[1:]
    greedy = Sampling(temperature=50.0, top_k=1, seed=1)
    engine.submit(one := writing(engine, "lora", prompt(engine, "lora", "a", 12), sampling=greedy))
    engine.submit(two := writing(engine, "lora", prompt(engine, "lora", "a", 12)))
    assert one.tell.last().text == two.tell.last().text


def test_deltas_beyond_the_limit_come_back_when_they_are_wanted(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = shutil.copytree(runs["lora"], tmp_path / "lora")
    small = opened(runs | {"lora": lora}, most=2, rows=4)
    try:
        asked = [(name, text) for text in TEXTS[:2] for name in runs]
        expected = {name: [line_of(each) for each in dt.predict(runs[name], TEXTS[:2])] for name in runs}
        for (name, text), line in zip(asked, answers(small, asked, together=True), strict=True):
            assert line["prediction"] == expected[name][TEXTS.index(text)]["prediction"]
        pool = small.pool
        assert pool.attached == len(pool.model.adapters) == 2
        assert pool.evictions == pool.loads - 1  # the first came with the base
        for name in ("prefix", "prompt"):
            assert small.call(lambda pool, name=name: pool.want(pool.get(name))).result()
        shutil.rmtree(lora / "adapter")
        for _ in range(2):  # nothing is there, and then another delta
            small.submit(work := writing(small, "lora", prompt(small, "lora", "a", 2)))
            assert "were changed or removed" in work.tell.last().what
            shutil.copytree(runs["full"] / "adapter", lora / "adapter", dirs_exist_ok=True)
        file = runs["prompt"] / "adapter" / "adapter_model.safetensors"
        content = file.read_bytes()
        for name in ("prefix", "full"):  # so that another must be loaded
            assert small.call(lambda pool, name=name: pool.want(pool.get(name))).result()
        try:
            file.write_bytes(content[:-4])
            small.submit(work := writing(small, "prompt", prompt(small, "prompt", "a", 2)))
            assert work.tell.last().what == "the delta 'prompt' cannot be loaded."
            assert "adapter_model.safetensors" in capsys.readouterr().err
        finally:
            file.write_bytes(content)
    finally:
        small.stop()


def test_another_base_is_refused_before_anything_is_loaded(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json
    import shutil

    other = shutil.copytree(runs["lora"], tmp_path / "other")
    ours = other / "adapter" / "deltatune.json"
    content = json.loads(ours.read_text())
    content["base"] |= {"name": "another-llama", "fingerprint": "0" * 64}
    ours.write_text(json.dumps(content))
    names = [named(str(runs["lora"])), named(str(other))]
    with pytest.raises(
        AdapterError, match=r"lora' is on .*llama, and .*other' on another-llama, a base with"
    ):
        require_one_base(names)


def test_names_are_the_folders_or_said(runs: dict[str, Path]) -> None:
    assert named(str(runs["lora"])).name == "lora"
    assert named(str(runs["lora"]), ["lora"]).name == "lora-2"
    assert named(f"short={runs['lora']}").name == "short"
    for wrong in ("base", "a/b", "ä", "-x"):
        with pytest.raises(AdapterError, match="cannot be the name"):
            named(f"{wrong}={runs['lora']}")
    with pytest.raises(AdapterError, match="no finished run"):
        named(str(runs["lora"].parent))


@pytest.mark.slow
def test_an_adapter_without_a_run_is_served_beside_runs(runs: dict[str, Path]) -> None:
    for folders in (
        {"lora": runs["lora"], "bare": runs["prompt"] / "adapter"},
        {"bare": runs["prompt"] / "adapter", "lora": runs["lora"]},
    ):
        mixed = opened({**folders, "prompt": runs["prompt"]})
        try:
            texts = {}
            for name in ("bare", "prompt", "lora"):
                mixed.submit(work := writing(mixed, name, prompt(mixed, name, TEXTS[0])))
                texts[name] = work.tell.last().text
            assert texts["bare"] == texts["prompt"] != texts["lora"]
        finally:
            mixed.stop()
