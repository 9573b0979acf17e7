"""The pictures of README and site: reports, light and dark, as headless Chromium draws them.

python -m tools.pictures out/demo/report.html report           (`make pictures`)
python -m tools.pictures out/reviews/report.html tutorial      (after docs/tutorial.md)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH, HEIGHT = 1180, 1060
"""Pixels of the window: the verdict and the leaderboard."""
SCHEMES = {"light": 1, "dark": 0}
"""Name of a picture -> Chromium's number for the colours that the reader prefers."""
COLOURS = 128


def chromium() -> str:
    """The installed Chromium.

    Raises:
        SystemExit: There is none.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        raise SystemExit(f"Pictures are drawn by one of {', '.join(names)}; none is installed.")
    return program


def shoot(page: Path, picture: Path, scheme: int) -> None:
    """Draw the top of a page into a PNG, in so few colours that a repository can hold it."""
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch, "raw.png")
        command = [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={scratch}/profile", f"--blink-settings=preferredColorScheme={scheme}",
            f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={raw}", page.resolve().as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        drawn = Image.open(raw).convert("RGB")
    few = drawn.quantize(COLOURS, dither=Image.Dither.NONE)
    picture.parent.mkdir(parents=True, exist_ok=True)
    few.save(picture, optimize=True)


def main(report: str, name: str) -> None:
    """Draw both pictures of a report."""
    for colours, scheme in SCHEMES.items():
        shoot(Path(report), FOLDER / f"{name}-{colours}.png", scheme)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
