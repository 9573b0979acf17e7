"""The report of a comparison: one page that can be mailed, and tables for other programs."""

from __future__ import annotations

from pathlib import Path

from deltatune.errors import DeltatuneError, nearest
from deltatune.files import write_text
from deltatune.report.load import load

FORMATS = ("html", "md", "csv", "json")

__all__ = ["FORMATS", "render", "write_report"]


def render(folder: Path, format: str = "html") -> str:
    """Render the comparison in `folder` as `html`, `md`, `csv` or `json`.

    Raises:
        DeltatuneError: An unknown format, or the folder holds no readable comparison.
    """
    if format not in FORMATS:
        raise DeltatuneError(
            f"{format!r} is no format of a report.", field="--format", remedy=nearest(format, FORMATS)
        )
    comparison = load(Path(folder))
    if format == "html":
        from deltatune.report.html import render_html

        return render_html(comparison)
    from deltatune.report import text

    renderers = {"md": text.render_markdown, "csv": text.render_csv, "json": text.render_json}
    return renderers[format](comparison)


def write_report(folder: Path) -> Path:
    """Write report.html into the folder of a comparison and return its path.

    Raises:
        DeltatuneError: The folder holds no readable comparison.
    """
    path = Path(folder) / "report.html"
    write_text(path, render(folder, "html"))
    return path
