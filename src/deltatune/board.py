"""Results as scripts and notebooks get them: those that show themselves."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr

from deltatune.errors import DeltatuneError, nearest
from deltatune.files import OURS
from deltatune.results import Across, DataPreview, Leaderboard, Plan, RunResult

if TYPE_CHECKING:
    from pandas import DataFrame

    from deltatune.report.figures import Figure


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise DeltatuneError("a frame needs the package pandas.", remedy="Run pip install pandas.") from error
    return pandas


def _report(folder: Path) -> str:
    """The report of a comparison, which needs no network, in a frame of its own."""
    from deltatune.report import render
    from deltatune.report.shown import framed

    return framed(render(folder), 700)


class Board(Leaderboard):
    """A leaderboard that knows its comparison's folder, and shows itself in a notebook."""

    _folder: Path = PrivateAttr()
    _temporary: tempfile.TemporaryDirectory[str] | None = PrivateAttr(default=None)
    """Of a packed comparison: where it was unpacked to."""

    @classmethod
    def at(cls, folder: Path, board: Leaderboard) -> Self:
        """The leaderboard of the comparison in `folder`."""
        made = cls.model_validate(board.as_dict())
        made._folder = folder
        return made

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The leaderboard of the comparison in `folder`, as its file has it.

        Raises:
            DeltatuneError: The folder holds no comparison.
        """
        from deltatune.report.load import load

        return cls.at(folder, load(folder).board)

    @classmethod
    def unpacked(cls, path: Path) -> Self:
        """The leaderboard of a packed comparison, whose files are there as long as it is.

        Raises:
            DeltatuneError: It holds no comparison, or may not be unpacked.
        """
        from deltatune.sharing.archive import unpack

        temporary = tempfile.TemporaryDirectory(prefix=OURS)
        made = cls.open(unpack(path, Path(temporary.name)).folder)
        made._temporary = temporary
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
        from deltatune.report.load import load
        from deltatune.report.text import table

        columns, *lines = table(load(self._folder))
        return _pandas().DataFrame(lines, columns=columns)

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
        """The whole report."""
        return _report(self._folder)


class BoardOfSets(Across):
    """What a comparison over several data sets came to; knows its folder, and shows itself in a notebook."""

    _folder: Path = PrivateAttr()

    @classmethod
    def at(cls, folder: Path, result: Across) -> Self:
        """The outcome of the comparison in `folder`."""
        made = cls.model_validate(result.as_dict())
        made._folder = folder
        return made

    @property
    def folder(self) -> Path:
        """The folder of all."""
        return self._folder

    def board(self, name: str) -> Board:
        """The leaderboard of one data set.

        Args:
            name: The data set's.

        Raises:
            DeltatuneError: There is none of this name.
        """
        for each in self.sets:
            if each.name == name:
                return Board.open(self._folder / each.folder)
        raise DeltatuneError(
            f"{name!r} is no data set of this comparison.",
            remedy=nearest(name, [each.name for each in self.sets]),
        )

    def to_pandas(self) -> DataFrame:
        """A row for each method on each data set: the columns of `deltatune report --format csv`.

        Raises:
            DeltatuneError: pandas is not installed.
        """
        from deltatune.report.across import table

        columns, *lines = table(self)
        return _pandas().DataFrame(lines, columns=columns)

    def _repr_html_(self) -> str:
        """The whole report."""
        return _report(self._folder)


class Trained(RunResult):
    """A run's result that knows its folder, and shows itself in a notebook."""

    _folder: Path = PrivateAttr()

    @classmethod
    def at(cls, folder: Path, result: RunResult) -> Self:
        """The result of the run in `folder`."""
        made = cls.model_validate(result.as_dict())
        made._folder = folder
        return made

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._folder

    def _repr_html_(self) -> str:
        """Metrics, cost, learning curves and certificate."""
        from deltatune.report.shown import framed, run_page

        return framed(run_page(self._folder, self), 620)


class ShownPlan(Plan):
    """A plan that shows itself in a notebook."""

    def _repr_html_(self) -> str:
        """A table, and a chart of the bytes of each entry's step."""
        from deltatune.report.shown import framed, plan_page

        return framed(plan_page(self), 220 + 84 * len(self.entries))


class ShownPreview(DataPreview):
    """A look at the data that shows itself in a notebook."""

    def _repr_html_(self) -> str:
        """Rows token by token, counts and warnings."""
        from deltatune.report.shown import framed, preview_page

        return framed(preview_page(self), 560)


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
        """The chart, not as wide as the page."""
        return self.svg.replace("<svg ", '<svg width="520" ', 1)
