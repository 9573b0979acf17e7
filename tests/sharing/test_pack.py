"""A comparison in one file: the same report, nothing local; no stranger's archive gets out of its folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import deltatune as dt
from deltatune.cli.app import app
from deltatune.errors import DeltatuneError
from deltatune.files import sealed
from deltatune.report import render
from deltatune.sharing import archive
from deltatune.sharing.pack import opened, pack
from tests.sharing.conftest import DATA


@pytest.fixture(scope="module")
def packed(compared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "titles.dtz"
    pack(compared, out)
    return out


def test_the_pack_shows_what_the_folder_shows(compared: Path, packed: Path) -> None:
    with opened(packed) as inside:
        assert inside.kind == "comparison"
        for form in ("md", "csv"):
            shown, before = (render(folder, form) for folder in (inside.folder, compared))
            before = before.replace(f"../{DATA}", DATA).replace("../tiny-t5", "./tiny-t5")
            assert _without_hash(shown) == _without_hash(before)
    assert not inside.folder.exists()
    board = dt.open_board(packed)
    assert [(row.name, row.metrics) for row in board.rows] == [
        (row.name, row.metrics) for row in dt.open_board(compared).rows
    ]
    assert "<iframe" in board._repr_html_()


def _without_hash(text: str) -> str:
    """That of the recipe, in which paths are others."""
    return re.sub(r"(?i)sha.?256[^\n]*", "", text)


def test_it_holds_no_weights_and_nothing_local(compared: Path, packed: Path) -> None:
    with zipfile.ZipFile(packed) as opened_zip:
        names = opened_zip.namelist()
        content = b"".join(opened_zip.read(name) for name in names)
    assert not [name for name in names if "safetensors" in name or "resume" in name or "lock" in name]
    assert "runs/lora-s0/predictions.jsonl" in names
    assert str(compared.parent).encode() not in content
    assert b"secret project" not in content
    assert sum(path.stat().st_size for path in compared.rglob("*") if path.is_file()) > packed.stat().st_size


def test_equal_content_makes_equal_bytes(compared: Path, packed: Path, tmp_path: Path) -> None:
    pack(compared, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    done = pack(compared, tmp_path / "bare.dtz", predictions=False)
    assert done.bytes < packed.stat().st_size
    with zipfile.ZipFile(tmp_path / "bare.dtz") as bare:
        assert not [name for name in bare.namelist() if name.endswith("predictions.jsonl")]
    with opened(tmp_path / "bare.dtz") as inside:
        assert "differs" not in render(inside.folder, "md")


def test_what_was_changed_before_is_still_said(compared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(compared, tmp_path / "copy")
    path = copy / "runs/lora-s0/result.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 7', 1), encoding="utf-8")
    done = pack(copy, tmp_path / "x.dtz")
    assert done.changed == ["runs/lora-s0/result.json"]
    with opened(tmp_path / "x.dtz") as inside:
        assert "result.json in 'lora-s0' is not what was written" in render(inside.folder, "md")


def test_report_opens_a_file(packed: Path, run: Path, tmp_path: Path) -> None:
    file = shutil.copy(packed, tmp_path / "titles.dtz")
    done = CliRunner().invoke(app, ["report", str(file)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "titles.html").read_text(encoding="utf-8")
    assert "lora" in page
    assert CliRunner().invoke(app, ["report", str(file)]).exit_code == 0  # its own page is written again
    (tmp_path / "titles.html").write_text("mine", encoding="utf-8")
    refused = CliRunner().invoke(app, ["report", str(file)])
    assert (refused.exit_code, (tmp_path / "titles.html").read_text(encoding="utf-8")) == (2, "mine")
    board = json.loads(CliRunner().invoke(app, ["report", str(file), "--json"]).stdout)
    assert board["rows"]
    alone = pack(run, tmp_path / "run.dtz")
    assert alone.kind == "run"
    assert CliRunner().invoke(app, ["report", str(tmp_path / "run.dtz")]).exit_code == 0
    assert "lora" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_packing_refuses_what_is_not_its_own(compared: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(DeltatuneError, match="exists"):
        pack(compared, packed)
    with pytest.raises(DeltatuneError, match="neither a comparison nor a run"):
        pack(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("{}", encoding="utf-8")
    copy = shutil.copytree(compared, tmp_path / "copy")
    (copy / "runs/lora-s0/metrics.jsonl").unlink()
    (copy / "runs/lora-s0/metrics.jsonl").symlink_to(secret)
    pack(copy, tmp_path / "y.dtz")
    with zipfile.ZipFile(tmp_path / "y.dtz") as without:
        assert "runs/lora-s0/metrics.jsonl" not in without.namelist()
    (copy / "runs").rename(tmp_path / "elsewhere")
    (copy / "runs").symlink_to(tmp_path / "elsewhere")
    pack(copy, tmp_path / "z.dtz")
    with zipfile.ZipFile(tmp_path / "z.dtz") as without:
        assert not [name for name in without.namelist() if name.startswith("runs/")]


def test_addresses_of_databases_are_taken_out(compared: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(compared, tmp_path / "copy")
    board = json.loads((copy / "leaderboard.json").read_text(encoding="utf-8"))
    board["recipe"]["search"] = {"trials": 2, "storage": "postgresql://anna:pw@db.lab.example/x"}
    (copy / "manifest.json").unlink()
    (copy / "leaderboard.json").write_text(json.dumps(board), encoding="utf-8")
    done = pack(copy, tmp_path / "x.dtz")
    assert "postgresql://anna:pw@db.lab.example/x" in done.scrubbed
    with zipfile.ZipFile(tmp_path / "x.dtz") as opened_zip:
        assert b"db.lab" not in b"".join(map(opened_zip.read, opened_zip.namelist()))


Member = tuple[zipfile.ZipInfo, bytes]


def _members(path: Path) -> list[Member]:
    with zipfile.ZipFile(path) as opened_zip:
        return [(info, opened_zip.read(info)) for info in opened_zip.infolist()]


def _rebuilt(members: list[Member], out: Path) -> Path:
    """An archive of these members, with a manifest that fits them."""
    files = {
        info.filename: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for info, content in members
        if info.filename != archive.MANIFEST
    }
    manifest = sealed({"schema": 1, "made_by": "deltatune", "kind": "comparison", "files": files})
    with (
        pytest.warns() if len(files) < len(members) - 1 else contextlib.nullcontext(),
        zipfile.ZipFile(out, "w") as made,
    ):
        for info, content in members:
            wanted = json.dumps(manifest).encode() if info.filename == archive.MANIFEST else content
            made.writestr(info, wanted, zipfile.ZIP_DEFLATED)
    return out


def _named(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        ("../evil", 0o100644, "no file of a comparison"),
        ("/etc/evil", 0o100644, "no file of a comparison"),
        ("runs/../../result.json", 0o100644, "no file of a comparison"),
        ("runs/../result.json", 0o100644, "no file of a comparison"),
        ("runs/x/../../../result.json", 0o100644, "no file of a comparison"),
        ("runs\\x\\result.json", 0o100644, "no file of a comparison"),
        ("C:/result.json", 0o100644, "no file of a comparison"),
        ("runs/c:x/result.json", 0o100644, "no file of a comparison"),
        ("runs/x\x1b[31m/result.json", 0o100644, "no file of a comparison"),
        ("runs/x /result.json", 0o100644, "no file of a comparison"),
        ("runs/x/evil.py", 0o100644, "no file of a comparison"),
        ("runs/" + "x" * 600 + "/result.json", 0o100644, "no file of a comparison"),
        ("runs/x/", 0o040755, "no file of a comparison"),
        ("choosing.json", stat.S_IFLNK | 0o777, "as a link or a device"),
        ("choosing.json", stat.S_IFIFO | 0o644, "as a link or a device"),
        ("runs/LORA-s0/result.json", 0o100644, "one file on some machines"),
        ("leaderboard.json", 0o100644, "one file on some machines"),
    ],
)
def test_a_stranger_gets_nowhere(packed: Path, tmp_path: Path, name: str, mode: int, said: str) -> None:
    evil = _rebuilt([*_members(packed), (_named(name, mode), b"{}")], tmp_path / "evil.dtz")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DeltatuneError, match=said), opened(evil):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_bombs_are_refused_unopened(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltatune.data.files.MOST_UNPACKED", 1 << 20)
    zeros = (_named("choosing.json"), b"\0" * (64 << 20))
    with (
        pytest.raises(DeltatuneError, match="unpacks to more"),
        opened(_rebuilt([*_members(packed), zeros], tmp_path / "bomb.dtz")),
    ):
        pass
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(DeltatuneError, match="3 at most"), opened(packed):
        pass


def test_a_changed_file_is_found(packed: Path, tmp_path: Path) -> None:
    members = _members(packed)
    with zipfile.ZipFile(tmp_path / "x.dtz", "w") as made:
        for info, content in members:
            made.writestr(
                info,
                content.replace(b'"rank": 1', b'"rank": 2')
                if info.filename == "leaderboard.json"
                else content,
            )
    with pytest.raises(DeltatuneError, match="checksum differs"), opened(tmp_path / "x.dtz"):
        pass
    for name in ("leaderboard.json", archive.MANIFEST):
        with zipfile.ZipFile(tmp_path / "y.dtz", "w") as made:
            for info, content in members:
                if info.filename != name:
                    made.writestr(info, content)
        with pytest.raises(DeltatuneError), opened(tmp_path / "y.dtz"):
            pass


def _mutated(content: bytes, chance: random.Random) -> bytes:
    kinds: list[Callable[[bytearray], bytearray]] = [
        lambda data: data[: chance.randrange(len(data))],
        lambda data: _with(data, chance.randrange(len(data)), chance.randrange(256)),
        lambda data: _with(data, max(0, len(data) - 1 - chance.randrange(400)), chance.randrange(256)),
        lambda data: data + bytes(chance.randrange(256) for _ in range(20)),
        lambda data: data[: (at := chance.randrange(len(data)))] + data[at + chance.randrange(50) :],
    ]
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        data = chance.choice(kinds)(data) or bytearray(b"x")
    return bytes(data)


def _with(data: bytearray, at: int, value: int) -> bytearray:
    data[at] = value
    return data


def _fuzz(packed: Path, tmp_path: Path, seed: int, count: int) -> None:
    """Whatever is done to its bytes, an archive is refused in words, or it is what it was."""
    chance, content = random.Random(seed), packed.read_bytes()
    with opened(packed) as inside:
        names = {
            p.relative_to(inside.folder).as_posix(): p.read_bytes()
            for p in inside.folder.rglob("*")
            if p.is_file()
        }
    for _ in range(count):
        (tmp_path / "fuzzed.dtz").write_bytes(_mutated(content, chance))
        with contextlib.suppress(DeltatuneError), opened(tmp_path / "fuzzed.dtz") as inside:
            assert names == {
                p.relative_to(inside.folder).as_posix(): p.read_bytes()
                for p in inside.folder.rglob("*")
                if p.is_file()
            }


def test_mutated_archives(packed: Path, tmp_path: Path) -> None:
    _fuzz(packed, tmp_path, seed=0, count=60)


@pytest.mark.slow
def test_many_mutated_archives(packed: Path, tmp_path: Path) -> None:
    _fuzz(packed, tmp_path, seed=1, count=4000)
