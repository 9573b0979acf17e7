"""Make a release by a checklist: cut, build, look inside, try it where no checkout is, tag.

    python -m tools.release 0.2.0 --cut      write the version and the changelog's heading, and commit both
    python -m tools.release 0.2.0            go through the checklist; again after an interruption, to go on
    python -m tools.release 0.2.0 --tag      the same, and tag the commit if nothing failed

Nothing is published: pushing the tag starts .github/workflows/publish.yml. Every line of the table at the end
is a step that passed, failed, or could not be tried here, and why. What the commands printed is in
WORK/release.log. A step that passed on this commit is not repeated, if what it made is still there.
Needs requirements/release.txt.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from email.parser import HeaderParser
from pathlib import Path

from packaging.version import InvalidVersion, Version

from tools.checklist import Checklist
from tools.release_trial import Failed, Unavailable, Work, try_it

ROOT = Path(__file__).resolve().parents[1]
VERSION_FILE = ROOT / "src/deltatune/version.py"
CHANGELOG = ROOT / "CHANGELOG.md"
UNRELEASED = "## [Unreleased]"
DATA = (".yaml", ".j2", ".html", ".css", ".js", ".json", ".typed")
"""Suffixes of files of the package that are no code."""
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
LARGEST = 5_000_000
"""Bytes of a wheel; more means that something slipped in."""


def git(*arguments: str) -> str:
    """What git prints.

    Raises:
        Failed: It ended with another code than 0.
    """
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"`git {arguments[0]}`: {(done.stderr.strip() or done.stdout.strip())[-600:]}")
    return done.stdout.strip()


def clean_tree() -> str:
    """No file differs from the commit."""
    if changed := git("status", "--porcelain"):
        raise Failed(f"the tree has changes:\n{changed}")
    return f"{git('rev-parse', '--short', 'HEAD')} on {git('rev-parse', '--abbrev-ref', 'HEAD')}"


def written_version() -> str:
    """What version.py says."""
    said = re.search(r'__version__ = "(.+)"', VERSION_FILE.read_text("utf-8"))
    if not said:
        raise Failed(f'{VERSION_FILE} has no line __version__ = "..."')
    return said[1]


def version_in_one_place(version: str) -> str:
    """version.py says this version, and nothing else says any."""
    if (said := written_version()) != version:
        raise Failed(f"version.py says {said}, not {version}: run with --cut first")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    if "version" in project["project"] or project["project"].get("dynamic") != ["version"]:
        raise Failed("pyproject.toml must take the version from version.py")
    return f"{version}, in version.py alone"


def changelog_has(version: str) -> str:
    """The changelog has a dated section for this version, with something in it."""
    if ".dev" in version:
        raise Unavailable("a development version has no section")
    sections = re.split(r"^## ", CHANGELOG.read_text("utf-8"), flags=re.MULTILINE)
    dated = [text for text in sections if re.match(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n", text)]
    if len(dated) != 1 or "- " not in dated[0].partition("\n")[2]:
        raise Failed(f"CHANGELOG.md has no filled section '## [{version}] - DATE': run with --cut first")
    return f"{sum(line.startswith('- ') for line in dated[0].splitlines())} entries"


def addresses() -> str:
    """[project.urls] says where the project is."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    if "Repository" not in urls:
        raise Unavailable("[project.urls] has no Repository yet: add it when the repository is public")
    return ", ".join(urls)


def cut(version: str) -> str:
    """Write the version and the changelog's heading, and commit both; all is looked at before."""
    clean_tree()
    said = written_version()
    if Version(version) <= Version(said):
        raise Failed(f"version.py says {said}: the next version must be higher, and {version} is not")
    if tagged(version):
        raise Failed(f"the tag v{version} exists: take a higher version")
    log = CHANGELOG.read_text("utf-8")
    if f"## [{version}]" in log:
        changelog_has(version)
    else:
        before, heading, after = log.partition(f"{UNRELEASED}\n")
        if not heading or UNRELEASED in after:
            raise Failed(f"CHANGELOG.md needs one heading {UNRELEASED!r}")
        if "- " not in re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0]:
            raise Failed(f"CHANGELOG.md has no entry below {UNRELEASED!r}: write what changed since {said}")
        dated = f"## [{version}] - {datetime.datetime.now(datetime.UTC):%Y-%m-%d}\n"
        log = f"{before}{heading}\n{dated}{after}"
    text = VERSION_FILE.read_text("utf-8")
    written = {
        VERSION_FILE: re.sub(r'__version__ = ".+"', f'__version__ = "{version}"', text),
        CHANGELOG: log,
    }
    files = [str(path) for path in written]
    try:
        for path, content in written.items():
            path.write_text(content, encoding="utf-8")
        git("add", *files)
        git("commit", "-m", f"release: {version}")
    except BaseException:  # the tree was clean: these two files are all that can differ
        git("restore", "--staged", "--worktree", *files)
        raise
    return f"{git('rev-parse', '--short', 'HEAD')}: release: {version}"


def tagged(version: str) -> str:
    """The commit that the tag of this version names, or nothing."""
    name = f"v{version}"
    return git("rev-list", "-n", "1", f"refs/tags/{name}") if git("tag", "--list", name) else ""


def tag_is_free(version: str, commit: str) -> str:
    """No other commit has the tag of this version."""
    if (other := tagged(version)) and other != commit:
        raise Failed(f"v{version} exists, on {other[:7]}: a version is published once, so take a higher one")
    return f"v{version} is on this commit already" if other else f"there is no v{version}"


def build(work: Work) -> str:
    """A source archive and a wheel, of what the commit holds and nothing else."""
    tree, dist = work.folder / "tree", work.folder / "dist"
    for folder in (tree, dist):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    archive = work.folder / "tree.tar"
    git("archive", "--format=tar", "-o", str(archive), "HEAD")
    with tarfile.open(archive) as packed:
        packed.extractall(tree, filter="data")
    epoch = {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct")}  # the same commit gives the same files
    work.run([sys.executable, "-m", "build", "--outdir", dist, tree], env=epoch, timeout=900)
    return ", ".join(f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in sorted(dist.iterdir()))


def contents(work: Work, version: str) -> str:
    """The wheel holds every file of the package and nothing else; the archive is enough to build it."""
    wheel, archive = work.wheel(), work.folder / f"dist/deltatune-{version}.tar.gz"
    source = work.folder / "tree/src"
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "deltatune").rglob("*")
        if path.suffix in (".py", *DATA)
    }
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in inside if ".dist-info/" not in name}
    if package != wanted:
        lacks, strange = sorted(wanted - package)[:9], sorted(package - wanted)[:9]
        raise Failed(f"the wheel lacks {lacks}, and should not have {strange}")
    for needed in ("deltatune/py.typed", f"deltatune-{version}.dist-info/licenses/LICENSE"):
        if needed not in inside:
            raise Failed(f"the wheel lacks {needed}")
    if wheel.stat().st_size > LARGEST:
        raise Failed(f"the wheel has {wheel.stat().st_size:,} bytes")
    with tarfile.open(archive) as packed:
        names = [name.partition("/")[2] for name in packed.getnames()]
    others = [name for name in names if name.startswith(("tests", "benchmarks", "docs", "tools", "recipes"))]
    missing = {"LICENSE", "README.md", "pyproject.toml", "CHANGELOG.md", "SECURITY.md"} - set(names)
    if others or missing:
        raise Failed(f"the source archive has {others[:5]} and lacks {sorted(missing)}")
    data = sum(not name.endswith(".py") for name in package)
    return f"{len(package)} files in the wheel, {data} of them no code; licence and py.typed are there"


def metadata(work: Work, version: str) -> str:
    """What the index will show: read by twine, and looked at."""
    files = sorted((work.folder / "dist").iterdir())
    work.run([sys.executable, "-m", "twine", "check", "--strict", *files])
    with zipfile.ZipFile(work.wheel()) as wheel:
        text = wheel.read(f"deltatune-{version}.dist-info/METADATA").decode("utf-8")
    found = HeaderParser().parsestr(text)
    for field in ("Version", "Summary", "Requires-Python", "License-Expression", "Keywords", "Project-URL"):
        if not found[field]:
            raise Failed(f"METADATA has no {field}")
    if found["Version"] != version:
        raise Failed(f"METADATA says version {found['Version']}")
    return f"Python {found['Requires-Python']}, {len(found.get_all('Requires-Dist'))} requirements"


def wheels_for(work: Work, python: str) -> str:
    """Whether every requirement has a wheel for this Python, without installing any."""
    found = work.folder / f"resolved-{python}.txt"
    # rouge-score is published as source alone; it is pure Python
    binary = ["--only-binary", ":all:", "--no-binary", "rouge-score"]
    command = ["uv", "pip", "compile", "--quiet", "--python-version", python, *binary, "--no-annotate"]
    work.run([*command, "-o", found, work.folder / "tree/pyproject.toml"], timeout=600)
    lines = [line for line in found.read_text("utf-8").splitlines() if "==" in line]
    return f"{len(lines)} packages resolve, {next(line for line in lines if line.startswith('torch=='))}"


def tag(version: str) -> str:
    """An annotated tag, which publishes once it is pushed."""
    if not tagged(version):
        git("tag", "-a", f"v{version}", "-m", f"deltatune {version}")
    return f"v{version}; `git push origin v{version}` publishes"


def main(arguments: list[str] | None = None) -> int:
    """Go through the checklist; 1 if a step failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("version", type=release_version, help="such as 0.2.0")
    act = parser.add_mutually_exclusive_group()
    act.add_argument("--cut", action="store_true", help="write version and changelog, commit, and stop")
    act.add_argument("--tag", action="store_true", help="tag the commit if nothing failed")
    parser.add_argument(
        "--work", type=Path, help="folder of this release, outside the clone. Default: in the system's"
    )
    parser.add_argument(
        "--python",
        action="append",
        help="a version to try, such as 3.12; may be repeated. Default: 3.11 to 3.14",
    )
    parser.add_argument(
        "--lowest",
        metavar="PYTHON",
        default="3.11",
        help="where the lowest versions are tried, or none",
    )
    parser.add_argument("--torch", help="requirement that is installed first, such as torch==2.13.0")
    parser.add_argument("--keep", action="store_true", help="keep the environments (5 to 8 GB each)")
    given = parser.parse_args(arguments)
    version = given.version
    try:
        if given.cut:
            print(cut(version))
            return 0
        commit = git("rev-parse", "HEAD")
    except Failed as error:
        print(f"Nothing was changed: {error}.", file=sys.stderr)
        return 1
    folder = (given.work or Path(tempfile.gettempdir()) / f"deltatune-{version}").resolve()
    if folder.is_relative_to(ROOT):
        parser.error(f"--work must lie outside of {ROOT}")
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / "release.log").exists():
            parser.error(
                f"--work {folder} holds other files; name a new or an empty folder, or one of a release"
            )
        work = Work(folder, given.torch, keep=given.keep)
        checks = Checklist(work, commit, version)
    except (OSError, ValueError) as error:
        parser.error(f"--work {folder} cannot be used: {error}")
    try:
        go_through(checks, given)
    except KeyboardInterrupt:
        work.say("\nInterrupted. The same command goes on behind the last step that passed.")
        return 130
    work.say("\n" + checks.table())
    work.say(f"\nFAILED: {', '.join(checks.failed)}." if checks.failed else "\nNothing failed.")
    return 1 if checks.failed else 0


def release_version(text: str) -> str:
    """A version as an argument: one of Python's, in its shortest form, so that it is the same everywhere."""
    try:
        version = Version(text)
    except InvalidVersion:
        version = None
    if version is None or version.local or str(version) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 0.2.0, 1.0.0rc1 or 0.3.0.dev0")
    return text


def go_through(checks: Checklist, given: argparse.Namespace) -> None:
    """All steps, as far as those before them allow."""
    work, version = checks.work, given.version
    clean = checks.step("clean tree", clean_tree, again=True)
    free = checks.step("tag is free", lambda: tag_is_free(version, checks.subject["commit"]), again=True)
    checks.step("version in one place", lambda: version_in_one_place(version), again=True)
    checks.step("changelog", lambda: changelog_has(version), again=True)
    checks.step("addresses", addresses, again=True)
    if given.tag and checks.failed:
        return  # an hour of trials would change nothing
    gone = not (work.folder / "dist").is_dir()
    if clean and free and checks.step("build", lambda: build(work), again=gone):
        checks.step("contents", lambda: contents(work, version))
        checks.step("metadata", lambda: metadata(work, version))
        pythons = given.python or PYTHONS
        for python in pythons:
            checks.step(f"wheels for {python}", lambda python=python: wheels_for(work, python))
        tries = [(python, "newest") for python in pythons]
        tries += [(given.lowest, "lowest")] if given.lowest != "none" else []
        for python, versions in tries:
            steps = {
                f"{name}, {python} {versions}": run for name, run in try_it(work, version, python, versions)
            }
            # a trial that is not through needs its environment, which was removed
            missing = (
                not work.environment(python, versions).exists() and not steps.keys() <= checks.passed.keys()
            )
            for name, function in steps.items():
                installs = name.startswith("install")
                if not checks.step(name, function, again=installs and missing) and installs:
                    break
            work.remove_environment(python, versions)
    if given.tag and not checks.failed:
        checks.step("tag", lambda: tag(version), again=True)


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)  # nothing of the clone may be found from an environment
    sys.exit(main())
