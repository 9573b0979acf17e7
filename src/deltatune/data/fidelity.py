"""What a tokenizer cannot write: characters it does not know, and texts that come out as others.

The best possible prediction of a target is what its own tokens decode to. Where that is another text, no
training makes up for it, and every metric of texts is short of its maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deltatune.data.rows import Row
from deltatune.data.tokens import TextTokens
from deltatune.errors import DataError

FEW = 0.01
"""Share of rows that is worth a warning where little is lost."""
MOST_UNKNOWN = 0.5
"""Share of training targets with unknown tokens beyond which training is refused."""
_SHOWN = 40
_NAMED = 3


@dataclass(slots=True)
class Found:
    """Rows of a kind, and the first of them."""

    rows: int = 0
    example: str = ""
    _last: str | None = None

    def add(self, row: Row, text: str) -> None:
        """Count a row; one that is added again for another of its references counts once."""
        self.example = self.example or f"row {row.id}: {text}"
        self.rows += row.id != self._last
        self._last = row.id


@dataclass(slots=True)
class Fidelity:
    """How faithfully a tokenizer writes some rows."""

    unknown_inputs: Found = field(default_factory=Found)
    """Inputs with tokens that stand for unknown characters."""
    unknown_targets: Found = field(default_factory=Found)
    altered_targets: Found = field(default_factory=Found)
    """Targets without unknown tokens that decode to another text all the same."""
    special_targets: Found = field(default_factory=Found)
    """Targets in which special tokens are written."""
    left_out: Found = field(default_factory=Found)
    """Conversations of which the chat template leaves out tools, calls of them, or whole messages."""
    joined: Found = field(default_factory=Found)
    """Pairs of texts that the tokenizer writes with nothing in between."""
    lost_words: Found = field(default_factory=Found)
    """Rows with words that become no token of their own."""
    words: int = 0
    """Words that have tags."""
    words_lost: int = 0
    """Those of them that become no token of their own."""
    words_cut: int = 0
    """Those that lie beyond the limit of a row."""

    def look_at_words(self, row: Row, count: int, lost: Sequence[str], cut: int) -> None:
        """Take a row's words into account.

        Args:
            row: The row.
            count: How many there are.
            lost: Those that become no token of their own.
            cut: How many lie beyond the limit.
        """
        self.words += count
        self.words_lost += len(lost)
        self.words_cut += cut
        if lost:
            self.lost_words.add(row, ", ".join(map(_excerpt, lost[:_NAMED])))

    def look_at_input(self, row: Row, text: str, ids: list[int], tokens: TextTokens) -> None:
        """Take an input into account."""
        if tokens.unknown(ids, text):
            self.unknown_inputs.add(row, _excerpt(text))

    def look_at_target(self, row: Row, text: str, ids: list[int], tokens: TextTokens, *, cut: bool) -> None:
        """Take a target into account.

        Args:
            row: The row.
            text: Its target.
            ids: Its tokens.
            tokens: Whose tokens.
            cut: Whether some are missing, so that another text is what is to be expected.
        """
        written = tokens.reference(text)
        if written != text:
            self.special_targets.add(row, _excerpt(text))
        came = tokens.decode(ids)
        if tokens.unknown(ids, text):
            self.unknown_targets.add(row, _beside(text, came))
        elif not cut and _altered(written, came):
            self.altered_targets.add(row, _beside(text, came))

    def warnings(self, rows: int, part: str, tokens: str = "") -> list[str]:
        """What a person should know.

        Args:
            rows: How many were looked at.
            part: Their name: `training`, ...
            tokens: Whose tokens (` of t5-small`), where there are several models.
        """
        said = []
        if self.unknown_targets.rows:
            said.append(
                f"{self.unknown_targets.rows} of {rows} {part} targets have characters that the tokenizer"
                f"{tokens} does not know, so that no prediction can equal them "
                f"({self.unknown_targets.example}); use a model that knows them, or write "
                "them in another way."
            )
        if self.altered_targets.rows > FEW * rows:
            said.append(
                f"{self.altered_targets.rows} of {rows} {part} targets come back from the tokenizer{tokens} "
                f"as other texts ({self.altered_targets.example}); predictions can be no better than that."
            )
        if self.special_targets.rows:
            said.append(
                f"{self.special_targets.rows} of {rows} {part} targets have special tokens of the tokenizer"
                f"{tokens} in them ({self.special_targets.example}); they are left out of predictions and of "
                "references alike."
            )
        if self.left_out.rows:
            said.append(
                f"the chat template{tokens} does not write all of {self.left_out.rows} of {rows} {part} "
                f"conversations ({self.left_out.example}), and what it leaves out a model does not see. Take "
                "a model whose template writes it, name a template as data.chat_template, or put several "
                "system messages into one."
            )
        if self.joined.rows:
            said.append(
                f"the tokenizer{tokens} writes the two texts of a pair with nothing in between "
                f"({self.joined.example}): a model cannot tell where the second begins. Write both into one "
                "text by data.template, with words or a sign between the two columns."
            )
        held_out = "" if part == "training" else ", and count as predictions of O"
        if self.words_cut:
            said.append(
                f"{self.words_cut:,} of {self.words:,} {part} words lie beyond data.max_input_tokens"
                f"{tokens}: their tags are lost{held_out}."
            )
        if self.words_lost:
            said.append(
                f"{self.words_lost:,} of {self.words:,} {part} words become no token{tokens} of their own "
                f"({self.lost_words.example}): they are signs without width, or one with the word before. "
                f"Their tags are lost{held_out}."
            )
        if self.unknown_inputs.rows > FEW * rows:
            said.append(
                f"{self.unknown_inputs.rows} of {rows} {part} inputs have characters that the tokenizer"
                f"{tokens} does not know ({self.unknown_inputs.example}); the model cannot tell them apart."
            )
        return said

    def require_writable(self, rows: int, tokens: str = "") -> None:
        """Refuse targets of which the model cannot write the most.

        Raises:
            DataError: More than half of them have unknown tokens.
        """
        if self.unknown_targets.rows > MOST_UNKNOWN * rows:
            raise DataError(
                f"has characters in {self.unknown_targets.rows} of {rows} training targets that the tokenizer"
                f"{tokens} does not know: what is learned, and all that can be predicted, is another text "
                f"({self.unknown_targets.example}).",
                field="data.columns.target",
                remedy="Use a model whose tokenizer knows them (byte-level ones, as GPT-2's or Llama 3's, "
                "know all), or write them in another way, such as '(' for '{'.",
            )


def _altered(text: str, came: str) -> bool:
    """Whether more is lost than blanks: other characters, or breaks of lines and columns."""
    return text.split() != came.split() or any(text.strip().count(c) > came.count(c) for c in "\n\t")


def _beside(text: str, came: str) -> str:
    """Both texts where they begin to differ."""
    pairs = enumerate(zip(text, came, strict=False))
    same = next((place for place, (wanted, got) in pairs if wanted != got), min(len(text), len(came)))
    start = 0 if same < _SHOWN // 2 else same - _SHOWN // 4
    cut = "..." if start else ""
    return f"{_excerpt(cut + text[start:])} comes out as {_excerpt(cut + came[start:])}"


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
