"""The report of a comparison: one page that can be mailed, and tables for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deltatune.errors import DeltatuneError, nearest
from deltatune.files import atomic_path, meant, write_text
from deltatune.printable import printable

if TYPE_CHECKING:
    from deltatune.report.figures import Figure

TEXTS = ("html", "md", "csv", "json", "svg")
FORMATS = (*TEXTS, "png")
CHARTS = ("svg", "png", "pdf")

__all__ = ["FORMATS", "render", "write_chart", "write_png", "write_report"]


def render(folder: Path, format: str = "html") -> str:
    """Render the comparison in `folder` as a text; `svg` is a sheet with its charts.

    Control characters and marks of direction, of whatever data or name, are in it as their escapes.

    Raises:
        DeltatuneError: An unknown format, or the folder holds no readable comparison.
    """
    if format not in TEXTS:
        raise DeltatuneError(
            f"{format!r} is no format of a report.", field="--format", remedy=nearest(format, TEXTS)
        )
    from deltatune.report.across_words import is_across
    from deltatune.report.load import load

    if is_across(Path(folder)):
        from deltatune.report import across

        return printable(across.render(Path(folder), format))
    comparison = load(Path(folder))
    if format == "html":
        from deltatune.report.html import render_html

        return printable(render_html(comparison))
    from deltatune.report import sheet, text

    renderers = {
        "md": text.render_markdown,
        "csv": text.render_csv,
        "json": text.render_json,
        "svg": sheet.render_svg,
    }
    return printable(renderers[format](comparison))


def write_png(folder: Path, path: Path) -> None:
    """Write the sheet with the charts of the comparison in `folder` as a picture.

    Raises:
        DeltatuneError: The folder holds no readable comparison, or the extra `plots` or a font is missing.
    """
    from deltatune.report.sheet import png

    picture = png(render(folder, "svg"))
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)


def write_chart(svg: str, figure: Figure, path: Path) -> None:
    """Write a chart as SVG, PNG or PDF, by the path's suffix.

    Args:
        svg: The chart with its legend.
        figure: The same, to be drawn anew as PDF.
        path: The file.

    Raises:
        DeltatuneError: Another suffix, or PNG or PDF without the extra `plots`, or PNG without a font.
    """
    from deltatune.report.sheet import png

    kind = path.suffix.lower().removeprefix(".")
    if kind not in CHARTS:
        raise DeltatuneError(
            f"'{path}' is neither .svg, .png nor .pdf.", field="path", remedy=nearest(kind, CHARTS)
        )
    if kind == "pdf":
        from deltatune.report.pdf import pdf

        content = pdf(figure)
    else:
        content = png(svg) if kind == "png" else svg.encode()
    with atomic_path(meant(path)) as temporary:
        temporary.write_bytes(content)


def write_report(folder: Path) -> Path:
    """Write report.html into the folder of a comparison and return its path.

    Raises:
        DeltatuneError: The folder holds no readable comparison.
    """
    path = Path(folder) / "report.html"
    write_text(path, render(folder, "html"))
    return path
