"""The checklist of a release: what it leaves out, what it refuses, and the workflows that follow it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from tools import release
from tools.release import Checklist
from tools.release_trial import Failed, Unavailable, Work, interpreter

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_passed_steps_are_left_out_on_the_same_commit_alone(tmp_path: Path) -> None:
    calls: list[str] = []

    def passes() -> str:
        calls.append("passes")
        return "well"

    def fails() -> str:
        raise Failed("why")

    def cannot() -> str:
        raise Unavailable("no Python 3.14")

    work = Work(tmp_path, None, keep=False)
    for commit, expected in (("a", 1), ("a", 1), ("b", 2)):
        checks = Checklist(work, commit)
        assert [checks.step("one", passes), checks.step("two", fails), checks.step("three", cannot)] == [
            True, False, False,
        ]  # fmt: skip
        assert len(calls) == expected
        assert checks.failed == ["two"]
        assert [line.split()[1] for line in checks.table().splitlines()] == ["passed", "FAILED", "not"]
    assert "== two" in (tmp_path / "release.log").read_text(encoding="utf-8")


def test_a_command_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    work = Work(tmp_path, None, keep=False)
    with pytest.raises(Failed, match="ended with 3: the reason"):
        work.run(["sh", "-c", "echo the reason >&2; exit 3"])
    with pytest.raises(Unavailable):
        interpreter("3.99")


def test_the_version_stands_in_one_place() -> None:
    said = re.search(r'"(.+)"', release.VERSION_FILE.read_text(encoding="utf-8").partition("=")[2])
    assert said
    assert release.version_in_one_place(said[1]).startswith(said[1])
    with pytest.raises(Failed, match="run with --cut first"):
        release.version_in_one_place("9.9")


def test_cut_writes_version_and_heading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version, log = tmp_path / "version.py", tmp_path / "CHANGELOG.md"
    version.write_text('__version__ = "0.2.0.dev0"\n', encoding="utf-8")
    log.write_text("# Changelog\n\n## [Unreleased]\n\n- A change.\n\n## [0.1.0] - 2026-01-01\n\n- First.\n")
    monkeypatch.setattr(release, "VERSION_FILE", version)
    monkeypatch.setattr(release, "CHANGELOG", log)
    said: list[tuple[str, ...]] = []
    monkeypatch.setattr(release, "git", lambda *arguments: said.append(arguments) or "")
    with pytest.raises(Failed, match="--cut"):
        release.changelog_has("0.2.0")
    release.cut("0.2.0")
    assert version.read_text(encoding="utf-8") == '__version__ = "0.2.0"\n'
    assert release.changelog_has("0.2.0") == "1 entries"
    assert "## [Unreleased]\n\n## [0.2.0] - 20" in log.read_text(encoding="utf-8")
    assert said[-1] == ("commit", "-m", "release: 0.2.0")


def test_every_file_of_the_package_is_shipped() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    globs = project["tool"]["setuptools"]["package-data"]["*"]
    for path in (ROOT / "src/deltatune").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py":
            assert any(path.match(glob) for glob in globs), path
            assert path.suffix in release.DATA or path.name == "py.typed", path


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_only_publishing_has_a_right(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for used in re.findall(r"uses: (.+)", text):
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", used), used
    jobs = yaml.safe_load(text)["jobs"]
    rights = {name: job.get("permissions", {}) for name, job in jobs.items()}
    with_token = [name for name, right in rights.items() if "id-token" in right]
    assert with_token == (["publish"] if path.stem == "publish" else [])
    assert "password" not in text
