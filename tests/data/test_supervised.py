"""What the loss sees of the labels, counted in batches."""

from __future__ import annotations

import pytest
import torch

from deltatune.data.encode import Encoder
from deltatune.data.rows import Row
from deltatune.data.supervised import supervision
from deltatune.recipe import ColumnsSpec, DataSpec
from deltatune.testing.tiny_tokenizers import Kind, tiny_tokenizer

TEXTS = ["of the medals", "and so on and so on", "x y z"]


def encoder(task: str, kind: Kind, target: str | None = "target", **spec: int) -> Encoder:
    columns = ColumnsSpec(input="input", target=target)
    return Encoder(task, tiny_tokenizer(kind), DataSpec(source="rows.jsonl", columns=columns, **spec))


@pytest.mark.parametrize(
    ("task", "kind"), [("text-to-text", "t5"), ("text-to-text", "bart"), ("causal-lm", "gpt2")]
)
def test_every_target_ends_with_the_end_token(task: str, kind: Kind) -> None:
    """GPT-2 pads with its end token, and targets that were cut end with it too."""
    made = encoder(task, kind, max_target_tokens=4)
    encoded = made.encode([Row(str(i), "a prompt", text, {}) for i, text in enumerate(TEXTS)])
    found = supervision(made, encoded)
    assert (found.rows, found.ended, found.silent, found.cut) == (3, 3, 0, 0)
    assert found.tokens == encoded.report.supervised_tokens
    assert encoded.report.truncated_targets
    assert found.sound


def test_a_plain_text_that_was_cut_has_no_end() -> None:
    made = encoder("causal-lm", "gpt2", None, max_input_tokens=8)
    encoded = made.encode([Row(str(i), text, "", {}) for i, text in enumerate(TEXTS)])
    found = supervision(made, encoded)
    assert 0 < found.cut < 3
    assert found.ended == 3 - found.cut
    assert found.tokens == encoded.report.supervised_tokens
    assert found.sound


def test_masked_ends_and_masked_rows_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder("causal-lm", "gpt2")
    encoded = made.encode([Row(str(i), "a prompt", text, {}) for i, text in enumerate(TEXTS)])
    original = Encoder.collate
    end = made.eos_ids[0]

    def masked(self: Encoder, features: object, *, rows: bool = False) -> dict[str, torch.Tensor]:
        batch = original(self, features)  # type: ignore[arg-type]
        hidden = batch["labels"] == end
        hidden[0] |= rows
        return batch | {"labels": batch["labels"].masked_fill(hidden, -100)}

    monkeypatch.setattr(Encoder, "collate", masked)
    found = supervision(made, encoded)
    assert (found.ended, found.silent, found.sound) == (0, 0, False)
    monkeypatch.setattr(Encoder, "collate", lambda self, features: masked(self, features, rows=True))
    found = supervision(made, encoded)
    assert (found.silent, found.sound) == (1, False)
