"""The leaderboard of a comparison as scripts and notebooks get it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import PrivateAttr

from deltatune.errors import DeltatuneError
from deltatune.results import Leaderboard

if TYPE_CHECKING:
    from pandas import DataFrame

    from deltatune.report.figures import Figure


class Board(Leaderboard):
    """A leaderboard that knows its comparison's folder, and shows itself in a notebook."""

    _folder: Path = PrivateAttr()

    @classmethod
    def at(cls, folder: Path, board: Leaderboard) -> Self:
        """The leaderboard of the comparison in `folder`."""
        made = cls.model_validate(board.as_dict())
        made._folder = folder
        return made

    @property
    def folder(self) -> Path:
        """The comparison's folder."""
        return self._folder

    def to_pandas(self) -> DataFrame:
        """A row a method, in the order of ranks: the columns of `deltatune report --format csv`.

        Raises:
            DeltatuneError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise DeltatuneError(
                "a frame needs the package pandas.", remedy="Run pip install pandas."
            ) from error
        from deltatune.report.load import load
        from deltatune.report.text import table

        columns, *lines = table(load(self._folder))
        return pandas.DataFrame(lines, columns=columns)

    def plot(self, cost: str = "trained_parameters") -> Chart:
        """The deciding metric against a cost, with intervals.

        Args:
            cost: `trained_parameters`, `train_seconds`, `step_memory_bytes` or `file_bytes`.

        Raises:
            DeltatuneError: There is no such chart, or no method finished.
        """
        from deltatune.report.load import load
        from deltatune.report.sheet import chart_against, sheet

        comparison = load(self._folder)
        figure = chart_against(comparison, cost)
        return Chart(sheet(comparison, [figure]), figure)

    def _repr_html_(self) -> str:
        """The whole report, which needs no network, in a frame of its own."""
        from deltatune.report import render

        page = html.escape(render(self._folder), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="700" style="border: 0"></iframe>'


class Chart:
    """A chart that a notebook shows, and that can be kept as a file."""

    def __init__(self, svg: str, figure: Figure) -> None:
        self.svg = svg
        self._figure = figure

    def save(self, path: str | Path) -> None:
        """Write it as SVG, PNG or PDF, by the path's suffix.

        Raises:
            DeltatuneError: Another suffix, or PNG or PDF without the extra `plots`.
        """
        from deltatune.report import write_chart

        write_chart(self.svg, self._figure, Path(path))

    def _repr_svg_(self) -> str:
        return self.svg
