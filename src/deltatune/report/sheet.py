"""Charts of a comparison on one sheet, for a paper or a slide: SVG, or PNG made of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from deltatune.errors import DeltatuneError, nearest
from deltatune.report import charts, figures
from deltatune.report.figures import Figure
from deltatune.report.load import Comparison

ROW, GAP = charts.HEIGHT + 34.0, 24.0
COLUMNS = 2
_CHART_RULES = re.compile(
    r"^(svg |\.(grid|band|many|front|base|curve|mark|error|leader|baseline)\b).*$", re.M
)
_SERIES = [*map(str, range(charts.COLOURS)), "n"]


def all_figures(comparison: Comparison) -> list[Figure]:
    """Quality against each cost, then the learning curves, of the leading methods."""
    series, comparison = series_of(comparison), comparison.leading()
    costs = figures.against_cost(comparison, series)
    return [*costs, *figures.curves(comparison, comparison.ranked, series)]


def render_svg(comparison: Comparison) -> str:
    """All charts of a comparison.

    Raises:
        DeltatuneError: No method finished.
    """
    drawn = all_figures(comparison)
    if not drawn:
        raise DeltatuneError("no method finished, so there is nothing to draw.", field="--format")
    return sheet(comparison, drawn)


def chart_against(comparison: Comparison, cost: str) -> Figure:
    """One chart: the deciding metric against a cost of `figures.COSTS`.

    Raises:
        DeltatuneError: There is no such chart, or no method finished that has this cost.
    """
    if cost not in figures.COSTS:
        raise DeltatuneError(
            f"{cost!r} is no cost that there is a chart of.",
            field="cost",
            remedy=nearest(cost, figures.COSTS),
        )
    drawn = figures.against_cost(comparison, series_of(comparison), [cost])
    if not drawn:
        raise DeltatuneError(f"no method finished of which {cost} is known.", field="cost")
    return drawn[0]


def series_of(comparison: Comparison) -> dict[str, int]:
    """The colour and mark of each method, by the recipe's order, so that they stay when the ranks change."""
    tuned = [method.name for method in comparison.methods if method.trained]
    return {method.name: charts.NEUTRAL for method in comparison.methods} | {
        name: index for index, name in enumerate(tuned)
    }


def sheet(comparison: Comparison, drawn: Sequence[Figure]) -> str:
    """An SVG document with `drawn`, two in a row, and a legend. Dark where its reader is."""
    parts, columns = [], min(COLUMNS, len(drawn))
    for index, figure in enumerate(drawn):
        x, y = (index % columns) * (charts.WIDTH + GAP), (index // columns) * ROW
        parts.append(Markup('<text class="heading" x="{}" y="{}">{}</text>').format(x, y + 16, figure.title))
        parts.append(_placed(figure.svg, x, y + 26, charts.WIDTH, charts.HEIGHT))
    width, x, y = columns * (charts.WIDTH + GAP) - GAP, 0.0, -(-len(drawn) // columns) * ROW + 14
    series = series_of(comparison)
    for method in comparison.ranked:
        if x + 30 + 7 * len(method.shown) > width:
            x, y = 0.0, y + 20
        parts.append(_placed(charts.swatch(series[method.name]), x, y, 14, 14))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(x + 19, y + 11, method.shown))
        x += 36 + 7 * len(method.shown)
    box = f"{-12} {-8} {width + 24:.0f} {y + 40:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">\n<style>{_style()}</style>\n'
        '<rect class="sheet" x="-12" y="-8" width="100%" height="100%"/>\n'
        f"{Markup('').join(parts)}\n</svg>\n"
    )


def png(svg: str, scale: float = 2.0) -> bytes:
    """The sheet as a picture, in its light colours.

    Raises:
        DeltatuneError: The extra `plots` or a font is missing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise DeltatuneError(
            "a PNG needs the package resvg-py.",
            field="--format",
            remedy='Run pip install "deltatune[plots]", or write SVG.',
        ) from error
    blank, letters = (
        bytes(resvg_py.svg_to_bytes(svg_string=f'<svg xmlns="http://www.w3.org/2000/svg" width="20" '
        f'height="20"><text y="15">{text}</text></svg>'))
        for text in ("", "M")
    )  # fmt: skip
    if blank == letters:  # without fonts every text would be left out, and nothing would say so
        raise DeltatuneError(
            "no font is installed, so the picture would have no text.",
            field="--format",
            remedy="Install one (on Debian: fonts-dejavu-core), or write SVG.",
        )
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=scale))


def _placed(svg: Markup, x: float, y: float, width: float, height: float) -> Markup:
    """An inner SVG at its place in an outer one."""
    place = f'<svg x="{x}" y="{y}" width="{width}" height="{height}"'
    return Markup(str(svg).replace("<svg", place, 1))


def light_colours() -> dict[str, str]:
    """The page's colours by their names in its style sheet, without the two lines."""
    css = _page_css()
    return _colours(css[: css.index("@media")])


def _page_css() -> str:
    return Path(charts.__file__).with_name("page.css").read_text(encoding="utf-8")


def _style() -> str:
    """The page's rules for charts with their colours in place: few programs but browsers know variables."""
    css = _page_css()
    dark = css.index("@media")
    rules = "\n".join(match[0] for match in _CHART_RULES.finditer(css))
    rules += "\nsvg .heading { font-weight: 600; font-size: 14px; fill: var(--ink); }"
    rules += "\n.sheet { fill: var(--card); }"
    light_rules = _coloured(rules, _colours(css[:dark]))
    dark_rules = _coloured(rules, _colours(css[dark : css.index("* {")]))
    return f"{light_rules}\n@media (prefers-color-scheme: dark) {{\n{dark_rules}\n}}"


def _colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): ([^;]+);", css))


def _coloured(rules: str, colours: dict[str, str]) -> str:
    """Rules without variables; one that has the colour of its series (`--c`) becomes one for each series."""
    lines = []
    for rule in rules.splitlines():
        if "var(--c)" not in rule:
            lines.append(rule)
            continue
        for name in _SERIES:
            lines.append(f".s{name} " + rule.removeprefix("svg ").replace("var(--c)", f"var(--s{name})"))
    return re.sub(r"var\(--([\w-]+)\)", lambda match: colours[match[1]], "\n".join(lines))
