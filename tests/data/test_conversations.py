"""Rows of every form become messages; what is no conversation is refused by one message with a remedy."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from deltatune.data import Dataset, load_data
from deltatune.data.load import prompt_row
from deltatune.errors import DataError
from deltatune.recipe import DataSpec

ASKED, ANSWERED = {"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}
TURNS = [ASKED, ANSWERED]
SYSTEM = {"role": "system", "content": "be short"}
BAD = {"role": "assistant", "content": "bad"}


def load(path: Path, *rows: dict[str, Any], **spec: Any) -> Dataset:
    source = path / "a.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = {"source": str(source), "split": {"validation": 0, "test": 0}} | spec
    return load_data(DataSpec(**given), "conversation")


def messages(path: Path, row: dict[str, Any], **spec: Any) -> list[dict[str, Any]]:
    [made] = load(path, row, **spec).train
    assert made.conversation is not None
    return list(made.conversation.messages)


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"messages": TURNS}, "messages (column 'messages')"),
        ({"talk": TURNS, "id": 3}, "messages (column 'talk')"),
        ({"messages": json.dumps(TURNS)}, "messages (column 'messages')"),
        (
            {"conversations": [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "that"}]},
            "sharegpt (column 'conversations')",
        ),
        ({"conversations": TURNS}, "messages (column 'conversations')"),
        (
            {"conversations": {"from": ["human", "gpt"], "value": ["what?", "that"]}},
            "sharegpt (column 'conversations')",
        ),
        ({"instruction": "what?", "input": "", "output": "that"}, "alpaca (columns 'instruction', 'output')"),
        ({"instruction": "what?", "output": "that"}, "alpaca (columns 'instruction', 'output')"),
        (
            {"instruction": "what?", "context": "", "response": "that"},
            "alpaca (columns 'instruction', 'response')",
        ),
        (
            {"prompt": "what?", "completion": "that"},
            "prompt-completion (columns 'prompt', 'completion')",
        ),
        (
            {"prompt": [ASKED], "completion": [ANSWERED]},
            "prompt-completion (columns 'prompt', 'completion')",
        ),
        ({"input": "what?", "target": "that"}, "prompt-completion (columns 'input', 'target')"),
        ({"rejected": [ASKED, BAD], "chosen": TURNS}, "messages (column 'chosen')"),
        ({"prompt": "what?", "rejected": [ASKED, BAD], "chosen": TURNS}, "messages (column 'chosen')"),
        (
            {"rejected": [BAD], "chosen": [ANSWERED], "prompt": [ASKED]},
            "prompt-completion (columns 'prompt', 'chosen')",
        ),
        (
            {"rejected": "bad", "chosen": "that", "question": "what?"},
            "prompt-completion (columns 'question', 'chosen')",
        ),
    ],
)
def test_a_form_is_told_by_its_columns(tmp_path: Path, row: dict[str, Any], form: str) -> None:
    [made] = load(tmp_path, row).train
    assert made.conversation is not None
    assert (list(made.conversation.messages), made.conversation.form) == (TURNS, form)
    assert made.conversation.learned == (False, True)
    assert (made.input, made.target) == ("what?", "that")


def test_alpacas_input_stands_behind_its_instruction(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "system": "be short"}
    assert [m["content"] for m in messages(tmp_path, row)] == ["be short", "Add.\n\n1 and 2", "3"]


@pytest.mark.parametrize("history", [[["a", "b"], ["c", 4]], '[["a", "b"], ["c", 4]]'])
def test_what_was_asked_before_an_instruction_is_read(tmp_path: Path, history: Any) -> None:
    """LLaMA-Factory's column; without it the answer would be learned without what it answers."""
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "history": history}
    assert [m["content"] for m in messages(tmp_path, row)] == ["a", "b", "c", "4", "Add.\n\n1 and 2", "3"]
    for none in ([], None, "", "of Rome"):
        assert len(messages(tmp_path, {**row, "history": none})) == 2


def test_rejected_answers_are_not_taken_by_themselves(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no conversation"):
        load(tmp_path, {"rejected": [ASKED, BAD]})
    assert messages(tmp_path, {"rejected": [ASKED, BAD]}, columns={"input": "rejected"}) == [ASKED, BAD]


def test_columns_may_be_named(tmp_path: Path) -> None:
    row = {"q": "what?", "a": "that", "messages": [ASKED]}
    assert messages(tmp_path, row, columns={"input": "q", "target": "a"}) == TURNS
    row = {"before": [{"role": "user", "content": "no"}], "talk": TURNS}
    assert messages(tmp_path, row, columns={"input": "talk"}) == TURNS


def test_a_form_may_be_named(tmp_path: Path) -> None:
    row = {"messages": [ASKED], "instruction": "what?", "output": "that"}
    with pytest.raises(DataError, match="no message of the assistant"):
        load(tmp_path, row)
    assert messages(tmp_path, row, format="alpaca") == TURNS
    with pytest.raises(DataError, match=r"holds no conversation written as sharegpt; it has the columns"):
        load(tmp_path, row, format="sharegpt")


def test_other_files_and_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([["messages", "id"], [json.dumps(TURNS), "x"]])
    spec = DataSpec(source=str(tmp_path / "a.csv"), split={"validation": 0, "test": 0}, columns={"id": "id"})
    [row] = load_data(spec, "conversation").train
    assert row.conversation is not None
    assert (row.id, list(row.conversation.messages)) == ("x", TURNS)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    talk = [*TURNS, {"role": "assistant", "content": None, "tool_calls": [call]}]
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": talk}]), tmp_path / "a.parquet")
    spec = DataSpec(source=str(tmp_path / "a.parquet"), split={"validation": 0, "test": 0})
    [row] = load_data(spec, "conversation").train
    assert row.conversation is not None
    made = row.conversation.messages
    assert list(made[:2]) == TURNS  # what Arrow fills up is gone
    assert made[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    parts = {part: datasets.Dataset.from_list([{"messages": TURNS}]) for part in ("train", "test")}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: datasets.DatasetDict(parts))
    spec = DataSpec(source="hub:owner/chats", split={"validation": 0}, format="messages")
    data = load_data(spec, "conversation")
    for [row] in (data.train, data.test):
        assert row.conversation is not None
        assert list(row.conversation.messages) == TURNS


def test_calls_and_tools(tmp_path: Path) -> None:
    call = {"name": "weather", "arguments": '{"town": "Oslo"}'}
    tool = {"type": "function", "function": {"name": "weather"}}
    row = {
        "messages": [ASKED, {"role": "assistant", "content": None, "function_call": call}],
        "tools": json.dumps([tool]),
    }
    [made] = load(tmp_path, row).train
    assert made.conversation is not None
    assert made.conversation.tools == (tool,)
    [written] = made.conversation.messages[1]["tool_calls"]
    assert written == {"type": "function", "function": {"name": "weather", "arguments": {"town": "Oslo"}}}
    assert made.target == '{"name": "weather", "arguments": {"town": "Oslo"}}'


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}])
def test_a_message_may_be_left_out_of_what_is_learned(tmp_path: Path, mark: dict[str, Any]) -> None:
    [made] = load(tmp_path, {"messages": [ASKED, ANSWERED | mark, ASKED, ANSWERED]}).train
    assert made.conversation is not None
    assert made.conversation.learned == (False, False, False, True)
    assert made.conversation.messages[1] == ANSWERED
    with pytest.raises(DataError, match=r"train: false .* at every message"):
        load(tmp_path, {"messages": [ASKED, ANSWERED | mark]})


def test_of_a_prompt_and_its_completion_the_latter_is_learned(tmp_path: Path) -> None:
    [made] = load(tmp_path, {"prompt": [ASKED, ANSWERED, ASKED], "completion": [ANSWERED]}).train
    assert made.conversation is not None
    assert made.conversation.learned == (False, False, False, True)


def test_roles_have_several_names_and_parts_are_put_together(tmp_path: Path) -> None:
    talk = [
        {"role": "developer", "content": "s"},
        {"from": "Human", "value": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"from": "gpt", "value": "c"},
        {"from": "observation", "value": 4},
        {"role": "bot", "content": "d"},
    ]
    made = [(m["role"], m["content"]) for m in messages(tmp_path, {"messages": talk})]
    assert made == [("system", "s"), ("user", "ab"), ("assistant", "c"), ("tool", "4"), ("assistant", "d")]


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [ASKED]}, r"line 1: has no message of the assistant.*Remove it"),
        ({"messages": [{"role": "assistant", "content": " "}]}, r"has an empty answer \(message 1\)"),
        ({"messages": [ASKED, {"role": "narrator", "content": "x"}]}, r"message 2: has the role 'narrator'"),
        ({"messages": [ASKED, {"content": "x"}]}, "message 2: has no role"),
        ({"messages": [ASKED, {"role": "assistant"}]}, "message 2: has no content"),
        ({"messages": [ASKED, "that"]}, "message 2: is no message but 'that'"),
        ({"messages": [IMAGE, ANSWERED]}, "message 1: has a part of the type 'image_url'; only text"),
        ({"messages": [ASKED, ANSWERED | {"train": "no"}]}, "message 2: has train: 'no'"),
        ({"messages": [ASKED, ANSWERED | {"weight": 0.5}]}, "message 2: has weight: 0.5"),
        ({"messages": [ASKED, ANSWERED | {"tool_calls": "f"}]}, "has tool_calls that are no list"),
        ({"messages": [ASKED, ANSWERED | {"tool_calls": [{"id": "1"}]}]}, "calls a tool without a name"),
        ({"messages": TURNS, "tools": "f"}, "column 'tools': holds no list of tools"),
        ({"text": "a", "label": "b"}, r"holds no conversation; it has the columns 'text', 'label'\."),
        ({"messages": []}, "line 1, column 'messages': holds no message at all"),
        ({"messages": str(TURNS)}, "holds no list of messages.*how Python writes a list.*to_json"),
        ({"messages": {"role": ["user"], "content": ["a", "b"]}}, "holds no list of messages"),
        ({"instruction": "a", "output": ["b"]}, r"column 'output': holds no text but '\[\"b\"\]'"),
        ({"instruction": {"a": 1}, "output": "b"}, "column 'instruction': holds no text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}, ANSWERED]},
            "message 1: has a part of text that holds none",
        ),
        ({"messages": [ASKED, {"role": "x" * 99, "content": "y"}]}, "has the role 'x{40}'"),
        ({"messages": "that"}, "line 1, column 'messages': holds no list of messages but 'that'"),
        ({"conversation": [["what?", "that"]]}, "message 1: is no message but"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "column 'history': holds no pairs"),
    ],
)
def test_what_is_no_conversation_is_refused(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        load(tmp_path, row)


def test_how_many_rows_are_wrong_is_said(tmp_path: Path) -> None:
    good, bad = {"messages": TURNS}, {"messages": [ASKED]}
    with pytest.raises(DataError, match=r"line 2: has no message of the assistant.* 2 more of 5 rows cannot"):
        load(tmp_path, good, bad, bad, {"messages": None}, good)


def test_the_fingerprint_is_of_all_that_is_said(tmp_path: Path) -> None:
    variants = [
        {"messages": TURNS},
        {"messages": [*TURNS, ASKED]},
        {"messages": TURNS, "tools": [{"name": "f"}]},
        {"messages": [SYSTEM, *TURNS]},
    ]
    assert len({load(tmp_path, row).fingerprint for row in variants}) == len(variants)


def test_what_is_asked_for_an_answer() -> None:
    spec = DataSpec(source="x")
    row = prompt_row("hello", spec, "conversation")
    assert row.conversation is not None
    assert (row.input, row.conversation.messages) == ("hello", ({"role": "user", "content": "hello"},))
    for asked in (
        {"messages": [SYSTEM, *TURNS]},  # a row with its answer, which is left out
        {"messages": [SYSTEM, ASKED]},
        {"prompt": [SYSTEM, ASKED]},
        json.dumps({"messages": [SYSTEM, *TURNS]}),  # as a line of a file
        {"prompt": "what?", "system": "be short"},
        {"instruction": "what?", "system": "be short"},
    ):
        row = prompt_row(asked, spec, "conversation")
        assert row.conversation is not None
        assert [m["content"] for m in row.conversation.messages] == ["be short", "what?"]
        assert row.input == "system: be short\nuser: what?"
    for empty in ("", {"messages": [{"role": "assistant", "content": "x"}]}):
        with pytest.raises(DataError, match="nothing to answer"):
            prompt_row(empty, spec, "conversation")
