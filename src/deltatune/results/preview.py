"""What `check` finds: what a recipe's rows look like to the model, and what is wrong with them."""

from __future__ import annotations

from typing import Any

from deltatune.results.parts import Padding
from deltatune.results.record import Number, Record


class ShownToken(Record):
    """A token as text."""

    text: str
    """What it stands for."""
    supervised: bool
    """Whether it is learned; else it is only read."""


class ShownRow(Record):
    """A training row as the model reads it."""

    id: str
    """Of the row."""
    length: int
    """Tokens that the model works on; 1 for an image."""
    supervised: int
    """Those of them that are learned."""
    tokens: list[ShownToken]
    """All of them, in their order."""


class TokenCounts(Record):
    """Tokens of one part of the data."""

    total: int
    """Of all rows."""
    supervised: int
    """Those that are learned."""
    median_length: Number
    """Tokens of a row: the median."""
    longest: int
    """Tokens of the longest row."""
    truncated_inputs: int
    """Rows whose input is cut off."""
    truncated_targets: int
    """Rows whose target is cut off."""
    lost_words: int | None = None
    """Words with tags that become no token, or lie beyond the limit; null where words have no tags."""
    truncated_texts: list[int] | None = None
    """Rows whose first, and whose second text is cut off; null where rows have one text."""


class Reading(Record):
    """How one model reads the rows, in one of the ways that entries do."""

    model: str
    """Its name."""
    reading: str
    """What tells this way of reading from others; empty if there is one."""
    samples: list[ShownRow]
    """Some training rows, token by token."""
    tokens: dict[str, TokenCounts]
    """By part (`train`, `validation`, `test`); empty for images."""
    padding: Padding | None = None
    """Of training rows, in batches of the first entry that reads them so; null of tasks that do not pack."""


class Conversations(Record):
    """What conversations consist of."""

    forms: list[str]
    """How their sources write them."""
    median_messages: Number
    """Messages of one: the median."""
    most_messages: int
    """Messages of the longest."""
    learned_answers: int
    """Answers that may be learned."""
    with_tools: int
    """Conversations with tools."""


class TaggedWords(Record):
    """What tagged words consist of."""

    forms: list[str]
    """How their sources write them."""
    scheme: str
    """Of the tags: `IOB1`, `IOB2`, `IOBES`, `BILOU`, `IO`, or `words`, where each is for itself."""
    words: dict[str, int]
    """By part, how many there are."""
    entities: dict[str, dict[str, int]]
    """By part, how many there are of each class, the most frequent one first."""
    ill_formed: dict[str, int]
    """By part, tags that cannot stand where they do; such a tag begins an entity."""


class RepeatedRow(Record):
    """A held-out row and the row of another part that it repeats."""

    row: str
    """Id of the held-out row."""
    other: str
    """Id of the other."""
    similarity: Number
    """1 if they are equal."""
    excerpt: str
    """Of the held-out row's input, where the two begin to differ."""
    other_excerpt: str
    """Of the other's."""


class Duplicates(Record):
    """What one part repeats of another."""

    part: str
    """The one."""
    other: str
    """The other."""
    rows: int
    """Rows of the part."""
    exact: int
    """Those that are in the other, too."""
    near: int
    """Those that are nearly in the other."""
    examples: list[RepeatedRow]
    """The first few."""


class ClassShift(Record):
    """Two parts whose classes differ by more than chance."""

    part: str
    """The one."""
    other: str
    """The other."""
    chi_square: Number
    """The statistic."""
    p: Number
    """How likely such a difference is by chance, by permutation."""
    distance: Number
    """Share of the part's rows that had to change their class for the shares to be equal."""


class Majority(Record):
    """Always answering with the most frequent class."""

    label: str
    """That class."""
    accuracy: Number
    """What it reaches on the test rows, from 0 to 1."""


class LabelSets(Record):
    """Rows with any number of labels."""

    written: str
    """How their source writes the labels, in words."""
    without: dict[str, int]
    """Rows without a label, by part."""
    most: int
    """Labels of the training row that has most."""
    mean: Number
    """Labels of a training row, on average."""
    one_each: bool
    """Whether each row has exactly one."""
    always: list[str]
    """Labels that all training rows have."""
    never: list[str]
    """Labels that the recipe names and no training row has."""
    unknown: dict[str, dict[str, int]]
    """Labels that no training row has, by the other parts, with the rows that have them."""


class NumberSpread(Record):
    """How the numbers of a part are spread, in the data's units."""

    least: Number
    """The smallest."""
    most: Number
    """The largest."""
    mean: Number
    """Their mean."""
    median: Number
    """Their median."""


class Contradictions(Record):
    """Inputs with several labels among the training rows."""

    inputs: int
    """How many there are."""
    examples: list[dict[str, Any]]
    """The first few: `rows`, `labels`, `excerpt`."""


class DataPreview(Record):
    """What a model will read and learn of a recipe's rows."""

    task: str
    """The recipe's task."""
    rows: dict[str, int]
    """Rows by part."""
    conversations: Conversations | None
    """Null of other data."""
    tags: TaggedWords | None = None
    """Null of other data."""
    pair: list[str] | None = None
    """Columns of the two texts of a row; null where it has one."""
    references: dict[str, list[int]] | None = None
    """By part, inputs and texts that are right for them; null where each input has one."""
    groups: dict[str, int] | None = None
    """Groups of rows that belong together, by part; null where rows of equal inputs alone do."""
    model: str
    """As of `models`, the first one."""
    reading: str
    """As of `models`, the first one."""
    samples: list[ShownRow]
    """As of `models`, the first one."""
    tokens: dict[str, TokenCounts]
    """As of `models`, the first one."""
    models: list[Reading]
    """Each model with each way to read the rows."""
    duplicates: list[Duplicates]
    """Rows that are in two parts."""
    repeated_training_rows: int
    """Training rows whose input an earlier one has."""
    classes: dict[str, dict[str, int]] | None
    """Rows of each class, by part, the most frequent first; null if targets are free texts."""
    shifts: list[ClassShift]
    """Parts whose classes are not spread alike."""
    unlabelled: dict[str, dict[str, int]]
    """By part, targets that stand for a missing label, and how many rows have each."""
    inputs: dict[str, int]
    """Different inputs, by part."""
    alike_classes: list[list[str]]
    """Classes whose names differ in writing only."""
    joined_classes: list[str]
    """Classes whose names consist of other classes' names."""
    label_sets: LabelSets | None = None
    """Where a row has any number of labels; `classes` then counts the rows of each label."""
    numbers: dict[str, NumberSpread] | None = None
    """By part; null if targets are no numbers."""
    majority: Majority | None
    """Null if targets are free texts."""
    contradictions: Contradictions
    """Inputs with several labels."""
    warnings: list[str]
    """What a person should know before training."""
