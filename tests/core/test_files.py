"""Saved deltas and states: damage is found, the wrong base is refused, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deltatune.checkpoint.folders import atomic_folder, remove, settle
from deltatune.checkpoint.inspection import inspect
from deltatune.checkpoint.resume import load_state, save_state
from deltatune.checkpoint.store import load_adapter, save_adapter
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, DeltatuneError
from deltatune.files import write_text
from deltatune.methods import METHODS
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.testing import tiny

TENSORS = "adapter_model.safetensors"


def change_tensors(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], *, peft: bool = True
) -> None:
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)
    if peft:  # without our file there is no checksum to notice it first
        (folder / "deltatune.json").unlink()


def change_json(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(
        json.dumps({k: v for k, v in (json.loads(path.read_text()) | values).items() if v != "-"})
    )


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(iter(tensors))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "truncated": lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:-9]),
    "empty": lambda f: (f / TENSORS).write_bytes(b""),
    "no-safetensors": lambda f: (f / TENSORS).write_bytes(b"PK\x03\x04 a pickle in a zip"),
    "no-tensors": lambda f: (f / TENSORS).unlink(),
    "no-config": lambda f: (f / "adapter_config.json").unlink(),
    "config-no-json": lambda f: (f / "adapter_config.json").write_text("{"),
    "config-a-list": lambda f: (f / "adapter_config.json").write_text("[]"),
    "config-not-text": lambda f: (f / "adapter_config.json").write_bytes(b"\xff\xfe\x00"),
    "checksum": lambda f: change_tensors(f, lambda t: t[first(t)].add_(1), peft=False),
    "missing-key": lambda f: change_tensors(f, lambda t: t.pop(first(t))),
    "extra-key": lambda f: change_tensors(f, lambda t: t.update(extra=torch.zeros(1))),
    "wrong-shape": lambda f: change_tensors(f, lambda t: t.update({first(t): torch.zeros(3, 3)})),
    "nan": lambda f: change_tensors(f, lambda t: t[first(t)].fill_(float("nan"))),
    "infinite": lambda f: change_tensors(f, lambda t: t[first(t)].view(-1)[:1].fill_(float("inf"))),
    "no-peft-type": lambda f: (
        (f / "deltatune.json").unlink(),
        change_json(f, "adapter_config.json", peft_type="IA3"),
    ),
    "peft-type-gone": lambda f: change_json(f, "adapter_config.json", peft_type="-"),
    "schema": lambda f: change_json(f, "deltatune.json", schema=99),
    "bad-setting": lambda f: change_json(f, "deltatune.json", config={"r": -1, "n_tokens": -1}),
    "config-gone": lambda f: change_json(f, "deltatune.json", config="-"),
    "base-gone": lambda f: change_json(f, "deltatune.json", base="-"),
    "checksum-gone": lambda f: change_json(f, "deltatune.json", sha256="-"),
    "peft-config-gone": lambda f: (
        (f / "deltatune.json").unlink(),
        change_json(f, "adapter_config.json", r="-", num_virtual_tokens="-", init_r="-"),
    ),
    "peft-bad-value": lambda f: (
        (f / "deltatune.json").unlink(),
        change_json(f, "adapter_config.json", r=0, num_virtual_tokens=0, init_r=0),
    ),
}


@pytest.mark.parametrize("method", ["lora", "adalora", "prefix", "prompt"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_delta_is_refused_and_nothing_stays_attached(
    damage: str, method: str, tmp_path: Path
) -> None:
    model = AdaptedModel(tiny.model("llama"))
    tiny.perturb(model.attach("a", METHODS.get(method)()))
    model.save(tmp_path / "delta")
    DAMAGE[damage](tmp_path / "delta")
    batch = tiny.batch("llama")
    before = model(**batch).logits
    with pytest.raises(DeltatuneError) as caught:
        model.load(tmp_path / "delta", "b")
    assert caught.value.remedy
    assert list(model.adapters) == ["a"]
    assert model.active == ("a",)
    assert torch.equal(model(**batch).logits, before)


@pytest.mark.parametrize("method", ["lora", "adalora", "prefix", "prompt", "full"])
def test_a_delta_for_another_base_is_refused(method: str, tmp_path: Path) -> None:
    model = AdaptedModel(tiny.model("llama"))
    model.attach("a", METHODS.get(method)())
    model.save(tmp_path / "delta")
    for other in ("gpt2", "t5"):
        stranger = AdaptedModel(tiny.model(other))
        with pytest.raises(AdapterError, match="is another"):
            stranger.load(tmp_path / "delta")
        assert not stranger.adapters


def test_the_same_shapes_with_other_weights_are_refused_by_fingerprint(tmp_path: Path) -> None:
    model = AdaptedModel(tiny.model("llama"))
    model.attach("a", METHODS.get("lora")())
    save_adapter(model, "a", tmp_path / "delta", base_name="one", fingerprint="1" * 64)
    load_adapter(model, tmp_path / "delta", "same", fingerprint="1" * 64)
    with pytest.raises(AdapterError, match="trained on one"):
        load_adapter(model, tmp_path / "delta", "other", fingerprint="2" * 64)


def test_a_folder_of_peft_for_another_base_is_refused(tmp_path: Path) -> None:
    model = AdaptedModel(tiny.model("bart"))
    model.attach("a", METHODS.get("lora")())
    model.save(tmp_path / "delta")
    (tmp_path / "delta/deltatune.json").unlink()
    for other in ("llama", "gpt2"):
        with pytest.raises(DeltatuneError):
            AdaptedModel(tiny.model(other)).load(tmp_path / "delta")


def test_inspecting_needs_no_base(tmp_path: Path) -> None:
    model = AdaptedModel(tiny.model("bert"), ("classifier",))
    adapter = model.attach("a", METHODS.get("lora")(r=3))
    model.save(tmp_path / "run/adapter")
    found = inspect(tmp_path / "run/adapter")
    assert (found.method, found.config["r"], found.heads) == ("lora", 3, ["classifier"])
    assert found.parameters == sum(p.numel() for _, p in adapter.trainable())
    assert found.loads_in_peft is True
    assert found.checksum == "matches"
    assert found.file_bytes == (tmp_path / "run/adapter" / TENSORS).stat().st_size


def test_an_atomic_folder_replaces_the_old_one_at_once(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as made:
        (made / "a").write_text("old")
        assert not target.exists()
    with atomic_folder(target) as made:
        (made / "b").write_text("new")
        assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_midway_leaves_the_old_folder(error: BaseException, tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with atomic_folder(target) as made:
        (made / "a").write_text("old")

    def fail() -> None:
        with atomic_folder(target) as made:
            (made / "a").write_text("half of the new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("killed_at", ["new", "aside", "placed"])
def test_what_a_killed_process_left_is_put_in_order(
    killed_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it writes, between the two renames, and before the old folder is removed."""
    alive, killed, replace = tmp_path / "alive", tmp_path / "killed", Path.replace
    alive.mkdir()
    target = alive / "folder"
    for name in (".DS_Store", ".notes.txt"):
        (alive / name).write_text("mine")
    with atomic_folder(target) as made:
        (made / "a").write_text("old")

    def copied(self: Path, to: Path) -> Path:
        done = replace(self, to)
        at = "placed" if to == target else "aside"
        if at == killed_at:
            shutil.copytree(alive, killed)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", copied)
        with atomic_folder(target) as made:
            (made / "b").write_text("new")
            if killed_at == "new":
                shutil.copytree(alive, killed)
    (killed / ".result.json.abcd1234.tmp").write_text("{")
    settle(killed)
    assert sorted(path.name for path in killed.iterdir()) == [".DS_Store", ".notes.txt", "folder"]
    assert [path.name for path in (killed / "folder").iterdir()] == ["b" if killed_at == "placed" else "a"]


def test_a_removal_that_is_killed_leaves_no_half_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state without its first file is no state, and stopped a comparison for good."""
    for finish in (lambda: remove(tmp_path / "state"), lambda: settle(tmp_path)):
        (tmp_path / "state").mkdir()
        (tmp_path / "state/state.json").write_text("{}")

        def killed(path: Path, **_: Any) -> None:
            if path.exists():
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                remove(tmp_path / "state")
        assert not (tmp_path / "state").exists()
        finish()
        assert not list(tmp_path.iterdir())


def test_a_failure_while_renaming_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, replace = tmp_path / "folder", Path.replace
    with atomic_folder(target) as made:
        (made / "a").write_text("old")

    def fail(self: Path, to: Path) -> Path:
        if to == target and (self / "new").exists():
            raise OSError("no")
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"), atomic_folder(target) as made:
        (made / "new").write_text("new")
    assert [path.name for path in target.iterdir()] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_does_not_take_the_place_of_a_folder_or_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, kind in (("folder", "a folder"), ("pipe", "a device or a pipe")):
        with pytest.raises(DeltatuneError, match=rf"{name}': it is {kind}\. Name a file"):
            write_text(tmp_path / name, "a text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_failed_save_leaves_the_old_delta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AdaptedModel(tiny.model("llama"))
    model.attach("a", METHODS.get("lora")())
    model.save(tmp_path / "delta")
    before = {path.name: path.read_bytes() for path in (tmp_path / "delta").iterdir()}
    tiny.perturb(model.adapter("a"))
    monkeypatch.setattr("deltatune.checkpoint.store.sha256", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(tmp_path / "delta")
    assert {path.name: path.read_bytes() for path in (tmp_path / "delta").iterdir()} == before
    assert len(list(tmp_path.iterdir())) == 1


STATE = {
    "step": 7,
    "lr": 1e-3,
    "name": "run",
    "none": None,
    "flags": [True, False],
    "tensors": {
        "a": torch.randn(3, 2),
        "b": torch.tensor(5.0),
        "c": torch.arange(4) > 1,
        "d": torch.zeros(0),
    },
    "nested": [{"x": torch.arange(3, dtype=torch.uint8)}, 2, [torch.ones(1, dtype=torch.bfloat16)]],
}


def same(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two) and one.dtype == two.dtype
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    return type(one) is type(two) and bool(one == two)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    save_state(tmp_path / "state", STATE)
    assert same(load_state(tmp_path / "state"), STATE)
    save_state(tmp_path / "state", {"step": 8})
    assert load_state(tmp_path / "state") == {"step": 8}


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("how", ["missing", "cut", "of another"])
def test_a_damaged_state_is_refused(file: str, how: str, tmp_path: Path) -> None:
    save_state(tmp_path / "state", STATE)
    path = tmp_path / "state" / file
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        save_state(tmp_path / "other", {"tensors": {"a": torch.zeros(1)}})
        path.write_bytes((tmp_path / "other" / file).read_bytes())
    with pytest.raises(AdapterError):
        load_state(tmp_path / "state")


def test_adalora_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Moving averages, mask, step and clock survive the files: the same ranks as without a stop."""

    def start() -> tuple[AdaptedModel, AdaLoraAdapter, torch.optim.Optimizer]:
        model = AdaptedModel(tiny.model("bart"))
        config = METHODS.get("adalora")(init_r=4, target_r=1, tinit=2, tfinal=2, interval=1, dropout=0.2)
        adapter = model.attach("a", config, seed=4)
        assert isinstance(adapter, AdaLoraAdapter)
        adapter.start(10)
        model.train()
        return model, adapter, torch.optim.AdamW(adapter.parameters(), lr=1e-2)

    def run(model: AdaptedModel, adapter: AdaLoraAdapter, optimizer: Any, steps: range) -> list[float]:
        losses = []
        for step in steps:
            loss = torch.nn.functional.cross_entropy(*model.labelled_logits(tiny.batch("bart", seed=step)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            adapter.after_step(step)
            losses.append(loss.item())
        return losses

    whole = start()
    losses = run(*whole, range(1, 11))
    half = start()
    run(*half, range(1, 7))
    save_state(
        tmp_path / "state",
        {"adapter": half[1].resume_state(), "weights": half[1].state_dict(), "adam": half[2].state_dict()},
    )
    rest = start()
    state = load_state(tmp_path / "state")
    rest[1].load_state_dict(state["weights"])
    rest[1].load_resume_state(state["adapter"])
    state["adam"]["state"] = {int(key): value for key, value in state["adam"]["state"].items()}
    rest[2].load_state_dict(state["adam"])
    assert run(*rest, range(7, 11)) == losses[6:]
    assert rest[1].rank_pattern() == whole[1].rank_pattern()
    assert all(torch.equal(a, b) for a, b in zip(rest[1].parameters(), whole[1].parameters(), strict=True))
    assert rest[1].finish() == whole[1].finish()
