"""Few-shot prompts: training rows before the input, and nothing is trained.

    y = f([x_1 y_1] .. [x_k y_k] [x]; W_0)

`choose: random` draws the same k rows for all inputs; each seed draws others, so that the luck of the draw is
in the intervals (Brown et al. 2020). `choose: nearest` takes for each input the k training rows most like it,
the most like last (Liu et al. 2022, KATE). Like is by BM25, not by the states of the base: as good where it
was compared (Rubin et al. 2022), without a pass, and the same on every machine. The rows are written by the
recipe's template, in a chat template as earlier turns (`deltatune.data.beside_rows`).

Oracle: Transformers' own `generate` behind the prompt written by hand.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.beside import Beside
from deltatune.core.method import MethodConfig
from deltatune.core.sites import BaseView
from deltatune.errors import TargetError
from deltatune.methods.bm25 import BM25
from deltatune.methods.kept_rows import KeepsRows, shots_of
from deltatune.tasks.task import Row, Shot


class Shots(KeepsRows):
    """Rows to show: those that were drawn, or all of them, to choose from."""

    answers = False

    def __init__(self, config: FewShotConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def beside(self) -> Beside:
        """Itself."""
        return self

    @property
    def shows(self) -> int:
        """As many as are asked for, of those that there are."""
        return min(self.config.k, len(self.kept))

    def keep(self, shots: Sequence[Shot]) -> None:
        """Take rows, and make them known to the search."""
        super().keep(shots)
        if self.config.choose == "nearest":
            self._index = BM25([shot.input for shot in self.kept])

    def see_rows(
        self, rows: Sequence[Row], batches: Callable[[], Iterable[tuple[Sequence[int], dict[str, Tensor]]]]
    ) -> None:
        """Draw the rows by the run's seed, or keep all."""
        shots = shots_of(rows, "few_shot")
        if self.config.choose == "random":
            drawn = random.Random(self.clock.seed).sample(range(len(shots)), min(self.config.k, len(shots)))
            shots = [shots[number] for number in drawn]
        self.keep(shots)

    def shots(self, row: Row) -> Sequence[Shot]:
        """The rows that were drawn, or those that are nearest, the nearest last."""
        if self.config.choose == "random" or not self.kept:
            return self.kept
        found = self._index.nearest(str(row.input), self.config.k)
        return [self.kept[number] for number in reversed(found)]

    def answer(self, row: Row) -> str:
        """The base answers."""
        raise NotImplementedError

    def describe(self) -> str | None:
        """How many rows are shown, and that they are in the file."""
        if self.config.choose == "random":
            return f"{len(self.kept)} training rows are shown before each row; its file holds their texts"
        return f"shows the nearest of {len(self.kept):,} training rows; its file holds the texts of all"


class FewShotConfig(MethodConfig):
    """Training rows as examples in the prompt. Nothing is trained."""

    name: ClassVar[str] = "few_shot"
    title: ClassVar[str] = "Nothing: training rows stand before the input as examples."
    formula: ClassVar[str] = "y = f([x_1 y_1] .. [x_k y_k] [x]; W_0)"
    when: ClassVar[str] = (
        "Beside every method that trains a model which writes texts: a method that does not beat it is not "
        "worth its training. It needs a base that was trained to follow examples."
    )
    cost: ClassVar[str] = (
        "Nothing is trained. Each prompt is longer by k rows, for good. The file holds the texts of the k "
        "rows, with choose: nearest of all training rows: share it as you would share the data."
    )
    defaults: ClassVar[str] = (
        "4 examples, drawn at random: what most papers report. choose: nearest is better in its "
        "papers, and tells less of the base."
    )
    paper: ClassVar[str] = (
        "Brown et al. 2020, Language Models are Few-Shot Learners (2005.14165); Liu et al. 2022, What Makes "
        "Good In-Context Examples for GPT-3? (2101.06804); Rubin et al. 2022 (2112.08633)."
    )
    default_lr: ClassVar[float] = 0.0
    trains: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = True
    shows_rows: ClassVar[bool] = True

    k: Annotated[int, Field(ge=1)] = 4
    """Number of training rows that are shown before each row, as far as the base has positions for them."""
    choose: Literal["random", "nearest"] = "random"
    """Which: drawn by the seed, the same for all rows; or for each row those most like it, by BM25."""

    def build(self, view: BaseView) -> Adapter:
        """No rows yet."""
        require_writing(view, "few_shot")
        return Shots(self)


def require_writing(view: BaseView, method: str) -> None:
    """Refuse a base that writes no text.

    Raises:
        TargetError: It is one.
    """
    writes: Any = getattr(view.base, "can_generate", None)
    if writes is None or not writes() or view.base.get_output_embeddings() is None:
        raise TargetError(
            f"a {type(view.base).__name__} writes no text.",
            field=method,
            remedy="It is for tasks whose answers are texts.",
        )
