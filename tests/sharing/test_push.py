"""A run goes to the Hub whole, in one commit, with a card that the Hub's own tools read."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

from deltatune.cli.app import app
from deltatune.errors import DeltatuneError
from deltatune.files import is_intact, read_json, sha256
from deltatune.serve.deltas.opening import read_named
from deltatune.sharing.push import Asked, push
from deltatune.sharing.scrub import Scrubber
from deltatune.training.given.start import _read
from tests.sharing.conftest import DATA
from tests.sharing.hub import FakeHub

TO = "anna/table-titles"
FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "certificate.json",
    "deltatune.json",
    "recipe.yaml",
    "result.json",
}


def test_all_is_sent_in_one_commit(run: Path, hub: FakeHub, tmp_path: Path) -> None:
    done = push(run, Asked(TO, licence="apache-2.0", private=True))
    assert [commit["repo"] for commit in hub.commits] == [TO]
    assert hub.private[TO]
    assert hub.repos[TO].keys() - {".gitattributes"} == FILES == set(done.files)
    push(run, Asked(TO, licence="apache-2.0"), out=tmp_path / "dry")
    for name in FILES:  # what a dry run shows is what is sent, to the byte
        assert hub.repos[TO][name] == (tmp_path / "dry" / name).read_bytes()
    assert (
        hub.repos[TO]["adapter_model.safetensors"] == (run / "adapter/adapter_model.safetensors").read_bytes()
    )


def test_the_card_is_the_hubs(run: Path, tmp_path: Path) -> None:
    asked = Asked(TO, base="google/tiny-t5", licence="mit", data_licence="cc-by-4.0", languages=("en",))
    push(run, asked, out=tmp_path / "dry")
    card = ModelCard.load(tmp_path / "dry" / "README.md")
    data = card.data
    assert (data.base_model, data.base_model_relation) == ("google/tiny-t5", "adapter")
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert (data.license, data.language, data.model_name) == ("mit", ["en"], "table-titles")
    [score] = data.eval_results
    result = read_json(run / "result.json", remedy="")
    assert score.metric_type == "rougeL_f"
    assert score.metric_value == result["metrics"]["test"]["rougeL_f"]
    assert score.dataset_split == "test"
    assert "95 % interval" in score.metric_name
    assert score.dataset_name == DATA
    text = card.text
    for part in (
        "PeftModel.from_pretrained",
        "deltatune predict table-titles",
        "merge_and_unload",
        "cc-by-4.0",
    ):
        assert part in text


def test_the_folder_loads_in_peft_and_here(run: Path, compared: Path, tmp_path: Path) -> None:
    import torch

    import deltatune as dt

    out = tmp_path / "dry"
    push(run, Asked(TO), out=out)
    local = compared.parent / "tiny-t5"
    code = (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    told: dict[str, Any] = {}
    exec(code.replace("PATH/OF/tiny-t5", str(local)).replace(TO, str(out)), told)
    batch = {"input_ids": torch.tensor([[5, 6, 7, 1]]), "decoder_input_ids": torch.tensor([[0, 4]])}
    ours = dt.load(run, device="cpu").model
    assert torch.allclose(told["model"].eval()(**batch).logits, ours(**batch).logits, atol=1e-5)

    recipe = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["model"]["name"] = str(local)  # as the card says of a base that only we have
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert _read(out).folder == out  # what may be trained on
    assert read_named(out, "x").bytes > 0  # and served
    pushed, before = (dt.predict(folder, ["3 of the ships"], device="cpu")[0] for folder in (out, run))
    assert pushed == before


def test_nothing_local_is_sent(
    run: Path, compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "anna_of_the_lab")
    monkeypatch.setattr("socket.gethostname", lambda: "lab-7.example.org")
    assert socket.gethostname() == "lab-7.example.org"
    result = read_json(run / "result.json", remedy="")
    told = [
        f"{compared.parent}/rows: 3 files are not used.",
        "cannot open '/home/bert/x/y.csv' on lab-7 for anna_of_the_lab (postgres://bert:pw@db.lab/x).",
        r"C:\Users\bert\rows.csv and rows 3 and 4 with 'medals' say 'my secret row'.",
    ]
    result["data"]["warnings"] = told
    result["git"] = {"commit": "c0ffee" * 6, "dirty": True}
    folder = _copied(run, tmp_path / "copy")
    (folder / "manifest.json").unlink()
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    done = push(folder, Asked(TO, predictions=True), out=tmp_path / "all")
    assert (tmp_path / "all/predictions.jsonl").is_file()
    push(folder, Asked(TO), out=tmp_path / "dry")
    for path in (*(tmp_path / "all").iterdir(), *(tmp_path / "dry").iterdir()):
        content = path.read_bytes().decode(errors="replace")
        for word in (
            str(tmp_path),
            str(compared.parent),
            "/home/bert",
            "Users",
            "lab-7",
            "anna_of_the_lab",
            "pw@",
        ):
            assert word not in content, (path.name, word)
        assert "c0ffee" not in content
    assert "my secret row" not in (tmp_path / "dry/README.md").read_text(encoding="utf-8")
    assert "my secret row" not in (tmp_path / "dry/result.json").read_text(encoding="utf-8")
    recipe = yaml.safe_load((tmp_path / "dry/recipe.yaml").read_text(encoding="utf-8"))
    assert (recipe["data"]["source"], recipe["model"]["name"]) == (DATA, "./tiny-t5")
    assert str(compared.parent / DATA) in done.scrubbed
    ours = read_json(tmp_path / "dry/deltatune.json", remedy="")
    assert is_intact(ours)
    assert ours["files"]["adapter_config.json"] == sha256(tmp_path / "dry/adapter_config.json")


def test_names_of_classes_are_no_paths() -> None:
    scrubber = Scrubber({"/home/anna": "~"}, {"anna": "[user]"})
    result = {
        "data": {"labels": ["/sports/football", "anna b"], "warnings": ["see /sports/football of anna"]},
        "recipe": {"data": {"template": "/a/b {input} of anna", "columns": {"input": "/x/y"}}},
        "model": "google/tiny-t5",
        "note": "https://huggingface.co/google/tiny-t5 and 1/2/3, and/or",
        "at": "/home/anna/x/y.csv",
    }
    told = scrubber.tree(result)
    assert told["data"] == {"labels": ["/sports/football", "anna b"], "warnings": ["see football of [user]"]}
    assert {key: told[key] for key in ("recipe", "model", "note")} == {
        key: result[key] for key in ("recipe", "model", "note")
    }
    assert told["at"] == "~/x/y.csv"
    row = {"input": "/home/anna/pets/1.png", "prediction": "anna said /a/b/c"}
    assert scrubber.tree(row, data=True) == {"input": "~/pets/1.png", "prediction": "anna said /a/b/c"}


def test_what_is_there_is_not_lost(run: Path, hub: FakeHub) -> None:
    hub.repos[TO] = {
        ".gitattributes": b"",
        "README.md": b"mine",
        "predictions.jsonl": b"old",
        "notes.txt": b"mine",
    }
    hub.branches[TO] = {"main"}
    with pytest.raises(DeltatuneError, match=r"holds README.md, notes.txt, predictions.jsonl.*--overwrite"):
        push(run, Asked(TO))
    assert not hub.commits
    push(run, Asked(TO, overwrite=True, keep_card=True))
    files = hub.repos[TO]
    assert (files["README.md"], files["notes.txt"]) == (b"mine", b"mine")
    assert "predictions.jsonl" not in files  # of another delta
    push(run, Asked(TO, revision="next"))  # a new branch replaces nothing
    assert hub.commits[-1]["revision"] == "next"


@pytest.mark.parametrize(
    ("token", "to", "said"),
    [
        ("hf_wrong", TO, "does not accept the token"),
        ("hf_reader", TO, "token of 'reader' may not write to 'anna/table-titles'"),
        ("hf_anna", "nobody/x", "there is no 'nobody' on the Hub"),
    ],
)
def test_a_refusal_is_one_paragraph(
    run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, *, token: str, to: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    done = CliRunner().invoke(app, ["push", str(run), "--to", to])
    assert done.exit_code == 2
    assert said in done.output
    assert "Traceback" not in done.output
    assert not hub.commits


@pytest.mark.parametrize("place", ["whoami", "preupload", "/store/", "/commit/"])
def test_a_network_that_goes_leaves_nothing_half(run: Path, hub: FakeHub, place: str) -> None:
    hub.gone = place
    done = CliRunner().invoke(app, ["push", str(run), "--to", TO])
    assert done.exit_code == 2
    assert "did not answer" in done.output
    assert not hub.commits
    hub.gone = ""
    assert CliRunner().invoke(app, ["push", str(run), "--to", TO]).exit_code == 0  # the same command again
    assert len(hub.commits) == 1


def test_a_fault_of_the_hubs_is_said(run: Path, hub: FakeHub) -> None:
    hub.broken["/commit/"] = 500
    with pytest.raises(DeltatuneError, match=r"a fault of its own \(500\)"):
        push(run, Asked(TO))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked("table-titles"), "--to: 'table-titles' is no name of the Hub"),
        (Asked("anna/a/b"), "--to: 'anna/a/b' is no name"),
        (Asked("anna/ä"), "--to: 'anna/ä' is no name"),
        (Asked(TO, base="/home/x"), "--base: '/home/x' is no name"),
        (Asked(TO, licence="Apache 2.0"), "--license: 'Apache 2.0'"),
        (Asked(TO, languages=("English",)), "--language: 'English'"),
    ],
)
def test_names_are_checked_before_any_request(run: Path, hub: FakeHub, asked: Asked, said: str) -> None:
    with pytest.raises(DeltatuneError) as caught:
        push(run, asked)
    assert str(caught.value).startswith(said)
    assert not hub.requests


def test_what_is_no_whole_run_is_not_sent(
    run: Path, compared: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeltatuneError, match=r"deltatune push '?.*/runs/lora-s0'? --to anna"):
        push(compared, Asked(TO))
    with pytest.raises(DeltatuneError, match="stores no delta"):
        push(compared / "runs/untuned-s0", Asked(TO))
    broken = _copied(run, tmp_path / "broken")
    with (broken / "adapter/adapter_model.safetensors").open("ab") as handle:
        handle.write(b"x")
    with pytest.raises(DeltatuneError, match=r"adapter_model.safetensors in .* differs"):
        push(broken, Asked(TO))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DeltatuneError, match="HF_HUB_OFFLINE is set"):
        push(run, Asked(TO))
    assert not hub.requests


def test_licences_are_read_and_not_guessed(run: Path, compared: Path, hub: FakeHub, tmp_path: Path) -> None:
    hub.cards["google/tiny-t5"] = {"license": "gemma"}
    done = push(run, Asked(TO, base="google/tiny-t5"))
    card = hub.repos[TO]["README.md"].decode()
    assert "- Base: gemma" in card
    assert "This delta: not stated" in card
    assert "license" not in yaml.safe_load(card.split("---")[1])
    assert any("--license" in note for note in done.notes)


def _copied(run: Path, place: Path) -> Path:
    import shutil

    shutil.copytree(run, place)
    return place
