"""Nearest neighbours: the targets of the training rows most like a row, and nothing is trained.

    N(x) = the k training rows i with the highest h(x) . h(x_i), where h is what the base makes of a row
    classes:  logits = log((sum over N(x) of y_i + p) / (k + 1)), p the classes' shares, one row more each
    labels:   the same of each label, as log odds
    numbers:  the mean of y_i over N(x)
    texts:    the commonest target in N(x), of equally common ones the nearest; here likeness is BM25

h is the mean of the last states of a text's tokens, of length 1; of an image what its classifier reads (Cover
and Hart 1967; of representations: Wu et al. 2018, Caron et al. 2021). Of texts that are written there is no
head to compare with, and the states of a decoder are poor vectors of a text: BM25 needs no pass.

Oracle: scikit-learn's KNeighborsClassifier and KNeighborsRegressor on the same vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from deltatune.core.adapter import Adapter
from deltatune.core.answers import RowVectors
from deltatune.core.beside import Beside
from deltatune.core.method import MethodConfig
from deltatune.core.new_heads import head_modules
from deltatune.core.sites import BaseView
from deltatune.errors import AdapterError, TargetError
from deltatune.methods.bm25 import BM25
from deltatune.methods.few_shot import require_writing
from deltatune.methods.kept_rows import KeepsRows, shots_of
from deltatune.tasks.task import Row, Shot

VECTORS, TARGETS = "neighbours.vectors", "neighbours.targets"
Answers = Literal["classes", "labels", "numbers"]


class Neighbours(Adapter):
    """Vectors and targets of the training rows.

    Args:
        view: The base.
        k: Neighbours of a row.
        outputs: Numbers that the base's head gives for a row.
        kind: What they mean.
    """

    reads_states = True

    def __init__(self, view: BaseView, k: int, outputs: int, kind: Answers) -> None:
        super().__init__()
        self._view = (view,)  # in a tuple: nothing of it is the adapter's
        self.k, self.outputs, self.kind = k, outputs, kind
        self.vectors: Tensor
        self.targets: Tensor
        self.register_buffer("vectors", torch.zeros(0, 0))
        self.register_buffer("targets", torch.zeros(0, outputs))

    @torch.no_grad()
    def see_rows(
        self, rows: Sequence[Row], batches: Callable[[], Iterable[tuple[Sequence[int], dict[str, Tensor]]]]
    ) -> None:
        """Let all rows go through the base once, and keep what it makes of them."""
        [view] = self._view
        vectors, targets = dict[int, Tensor](), dict[int, Tensor]()
        states = RowVectors(view)
        try:
            with view.without_adapters():
                for numbers, batch in batches():
                    labels = batch["labels"]
                    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
                    view.base(**inputs)
                    vectors |= zip(numbers, states.of(inputs), strict=True)
                    targets |= zip(numbers, self._numbers(labels), strict=True)
        finally:
            states.remove()
        order = range(len(rows))
        self._take(
            torch.stack([vectors[row] for row in order]),
            torch.stack([targets[row] for row in order]).to(self.vectors.device),
        )

    def _numbers(self, labels: Tensor) -> Tensor:
        """Targets of rows [rows, outputs] in float32."""
        if self.kind == "classes":
            return F.one_hot(labels, self.outputs).float()
        return labels.float().reshape(len(labels), self.outputs)

    def _take(self, vectors: Tensor, targets: Tensor) -> None:
        self.vectors, self.targets = vectors.to(self.vectors.device), targets.to(self.targets.device)

    def logits_of(self, vectors: Tensor, logits: Tensor) -> Tensor:
        """From the neighbours' targets, [rows, outputs]; the base's own as long as it has no rows."""
        if not len(self.targets):
            return logits
        count = min(self.k, len(self.targets))
        near = self.targets[(vectors @ self.vectors.T).topk(count, dim=1).indices]
        if self.kind == "numbers":
            return near.mean(dim=1)
        more = self.outputs if self.kind == "classes" else 2
        shares = (self.targets.sum(dim=0) + 1) / (len(self.targets) + more)
        chances = (near.sum(dim=1) + shares) / (count + 1)
        return chances.log() if self.kind == "classes" else chances.logit()

    def stored(self) -> dict[str, Tensor]:
        """The vectors and targets, beside a new head, which is not asked."""
        return super().stored() | {VECTORS: self.vectors, TARGETS: self.targets}

    def load_stored(self, tensors: Mapping[str, Tensor]) -> None:
        """Take what `stored` gave.

        Raises:
            AdapterError: It has another number of outputs, or none for each row.
        """
        vectors, targets = tensors.get(VECTORS), tensors.get(TARGETS)
        if vectors is None or targets is None or targets.shape != (len(vectors), self.outputs):
            raise AdapterError(
                f"its file holds no rows with {self.outputs} numbers each, as this base's head gives.",
                remedy="Load it onto the base that it was made with.",
            )
        self._take(vectors, targets)
        super().load_stored(dict(tensors))

    def describe(self) -> str | None:
        """How many rows it has."""
        return f"{len(self.vectors):,} training rows are kept as vectors of {self.vectors.shape[1]:,} numbers"


class Copies(KeepsRows):
    """Training rows whose targets are copied."""

    shows, answers = 0, True

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    @property
    def beside(self) -> Beside:
        """Itself."""
        return self

    def keep(self, shots: Sequence[Shot]) -> None:
        """Take rows, and make them known to the search."""
        super().keep(shots)
        self._index = BM25([shot.input for shot in self.kept])

    def see_rows(
        self, rows: Sequence[Row], batches: Callable[[], Iterable[tuple[Sequence[int], dict[str, Tensor]]]]
    ) -> None:
        """Keep all rows."""
        self.keep(shots_of(rows, "knn"))

    def shots(self, row: Row) -> Sequence[Shot]:
        """None."""
        return ()

    def answer(self, row: Row) -> str:
        """The commonest target of the neighbours, of equally common ones the nearest's."""
        found = [self.kept[number].target for number in self._index.nearest(str(row.input), self.k)]
        return Counter(found).most_common(1)[0][0]

    def describe(self) -> str | None:
        """How many rows it has."""
        return f"copies the targets of {len(self.kept):,} training rows; its file holds their texts"


class KnnConfig(MethodConfig):
    """The k nearest training rows. Nothing is trained."""

    name: ClassVar[str] = "knn"
    title: ClassVar[str] = "Nothing: the targets of the nearest training rows, by the base's own vectors."
    formula: ClassVar[str] = "y(x) = mean over N(x) of y_i; N(x) = the k rows with the highest h(x) . h(x_i)"
    when: ClassVar[str] = (
        "Beside every method on a task with classes, labels or numbers: what the frozen base knows already. "
        "Of texts it copies a neighbour's target, which tells how much test rows are like training rows."
    )
    cost: ClassVar[str] = (
        "Nothing is trained: one pass over the training rows. The file holds a vector of each training row, "
        "or of texts the rows themselves: share it as you would share the data."
    )
    defaults: ClassVar[str] = (
        "5 neighbours, as in scikit-learn, each with one vote; cosine distance, as is usual for vectors of "
        "trained models."
    )
    paper: ClassVar[str] = (
        "Cover and Hart 1967, Nearest Neighbor Pattern Classification; on frozen states: Wu et al. 2018 "
        "(1805.01978), Caron et al. 2021 (2104.14294)."
    )
    default_lr: ClassVar[float] = 0.0
    trains: ClassVar[bool] = False
    holds_rows: ClassVar[bool] = True
    answers_texts: ClassVar[bool] = True

    k: Annotated[int, Field(ge=1)] = 5
    """Number of training rows that answer for a row."""

    def build(self, view: BaseView) -> Adapter:
        """No rows yet: in place of a head, or for a base that writes."""
        if view.labels_tokens:
            raise TargetError(
                "tells rows apart, not the words in them.",
                field="knn",
                remedy="Take majority or head in tasks that tag words.",
            )
        if not head_modules(view):
            require_writing(view, "knn")
            return Copies(self.k)
        problem: Any = getattr(view.config, "problem_type", None)
        kinds: dict[Any, Answers] = {"regression": "numbers", "multi_label_classification": "labels"}
        return Neighbours(view, self.k, int(view.config.num_labels), kinds.get(problem, "classes"))
