"""The checklist of a release: what it leaves out, what it refuses, and the workflows that follow it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from tools import release
from tools.checklist import Checklist
from tools.release_trial import Failed, Unavailable, Work, interpreter

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_passed_steps_are_left_out_for_the_same_commit_and_version_alone(tmp_path: Path) -> None:
    calls: list[str] = []

    def passes() -> str:
        calls.append("passes")
        return "well"

    def fails() -> str:
        raise Failed("why")

    def cannot() -> str:
        raise Unavailable("no Python 3.14")

    work = Work(tmp_path, None, keep=False)
    for commit, version, expected in (("a", "1", 1), ("a", "1", 1), ("b", "1", 2), ("b", "2", 3)):
        checks = Checklist(work, commit, version)
        assert [checks.step("one", passes), checks.step("two", fails), checks.step("three", cannot)] == [
            True, False, False,
        ]  # fmt: skip
        assert len(calls) == expected
        assert checks.failed == ["two"]
        assert [line.split()[1] for line in checks.table().splitlines()] == ["passed", "FAILED", "not"]
    checks.step("one", passes, again=True)
    assert len(calls) == 4
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


LOG = "# Changelog\n\n## [Unreleased]\n\n- A change.\n\n## [0.1.0] - 2026-01-01\n\n- First.\n"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of version 0.1.0 with one change since."""
    root = tmp_path / "clone"
    root.mkdir()
    (root / "version.py").write_text('__version__ = "0.1.0"\n', encoding="utf-8")
    (root / "CHANGELOG.md").write_text(LOG, encoding="utf-8")
    project = '[project]\nname = "x"\ndynamic = ["version"]\nurls = {Changelog = "https://x.example"}\n'
    (root / "pyproject.toml").write_text(project, encoding="utf-8")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b.example")
    monkeypatch.setattr(release, "ROOT", root)
    monkeypatch.setattr(release, "VERSION_FILE", root / "version.py")
    monkeypatch.setattr(release, "CHANGELOG", root / "CHANGELOG.md")
    release.git("init", "-q", "-b", "main")
    release.git("add", ".")
    release.git("commit", "-q", "-m", "first")
    release.git("tag", "-a", "v0.1.0", "-m", "first")
    return root


def test_cut_writes_version_and_heading(clone: Path) -> None:
    with pytest.raises(Failed, match="--cut"):
        release.changelog_has("0.2.0")
    assert release.main(["0.2.0", "--cut"]) == 0
    assert (clone / "version.py").read_text(encoding="utf-8") == '__version__ = "0.2.0"\n'
    assert release.changelog_has("0.2.0") == "1 entries"
    assert "## [Unreleased]\n\n## [0.2.0] - 20" in (clone / "CHANGELOG.md").read_text(encoding="utf-8")
    assert release.git("log", "-1", "--format=%s") == "release: 0.2.0"


@pytest.mark.parametrize(
    ("version", "before", "why"),
    [
        ("banana", "true", "no version"),
        ("v0.2.0", "true", "no version"),
        ("../0.2", "true", "no version"),
        ("0.2.00", "true", "no version"),
        ("0.1.0", "true", "must be higher"),
        ("0.0.9", "true", "must be higher"),
        ("0.2.0", "git tag v0.2.0", "the tag v0.2.0 exists"),
        ("0.2.0", "echo >> version.py", "the tree has changes"),
        ("0.2.0", "sed -i s/Unreleased/Next/ CHANGELOG.md; git commit -qam x", "one heading"),
        ("0.2.0", "sed -i '/A change/d' CHANGELOG.md; git commit -qam x", "no entry below"),
        (
            "0.2.0",
            "printf 'echo the hook; exit 1' > .git/hooks/pre-commit; chmod +x .git/hooks/*",
            "the hook",
        ),
    ],
)
def test_cut_refuses_before_it_changes_anything(
    version: str, before: str, why: str, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["sh", "-c", before], cwd=clone, check=True)
    at = release.git("rev-parse", "HEAD"), release.git("diff", "HEAD")
    try:
        code = release.main([version, "--cut"])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    assert code in (1, 2)
    assert why in capsys.readouterr().err
    assert (release.git("rev-parse", "HEAD"), release.git("diff", "HEAD")) == at


def test_what_a_tag_needs_is_asked_before_hours_of_trials(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "build", lambda work: pytest.fail("nothing may be built"))
    command = ["0.1.0", "--tag", "--work", str(tmp_path / "work")]
    monkeypatch.setattr(release, "changelog_has", lambda version: "1 entries")
    (clone / "version.py").touch()
    release.git("commit", "-q", "--allow-empty", "-m", "second")
    assert release.main(command) == 1
    assert "FAILED: tag is free." in capsys.readouterr().out
    release.git("reset", "-q", "--hard", "v0.1.0")
    (clone / "more").touch()
    assert release.main(command) == 1
    assert "FAILED: clean tree." in capsys.readouterr().out
    (clone / "more").unlink()

    def interrupted(work: Work) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "build", interrupted)
    assert release.main(command) == 130
    assert "The same command goes on" in capsys.readouterr().out


def test_a_trial_that_is_tried_again_has_its_environment(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[str] = []
    fails = True

    def trial(
        work: Work, version: str, python: str, versions: str
    ) -> Iterator[tuple[str, Callable[[], str]]]:
        environment = work.environment(python, versions)

        def install() -> str:
            environment.mkdir()
            installed.append(python)
            return "well"

        def demo() -> str:
            assert environment.is_dir()
            if fails:
                raise Failed("no room on the disk")
            return "well"

        yield "install", install
        yield "demo", demo

    for name in ("build", "contents", "metadata", "wheels_for"):
        monkeypatch.setattr(release, name, lambda *arguments: "well")
    monkeypatch.setattr(release, "try_it", trial)
    command = ["0.1.0", "--work", str(tmp_path / "work"), "--python", "3.12", "--lowest", "none"]
    assert release.main(command) == 1
    fails = False
    assert release.main(command) == 0
    assert release.main(command) == 0
    assert installed == ["3.12", "3.12"]


def test_the_work_folder_is_of_a_release_alone(
    clone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine/dist").mkdir(parents=True)
    (tmp_path / "file").touch()
    for folder, why in (("mine", "holds other files"), ("file", "cannot be used"), ("clone/w", "outside of")):
        with pytest.raises(SystemExit):
            release.main(["0.1.0", "--work", str(tmp_path / folder)])
        assert why in capsys.readouterr().err
    assert (tmp_path / "mine/dist").is_dir()


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
