"""What is learned of a conversation, by templates of many families; what the oracle does not tell."""

from __future__ import annotations

from typing import Any

import pytest

from deltatune.data.conversations import conversation_rows
from deltatune.data.encode import Encoded, Encoder
from deltatune.data.rows import Record
from deltatune.data.supervised import supervision
from deltatune.errors import DataError, SilentRowError
from deltatune.models.processor import ModelFacts
from deltatune.recipe import DataSpec
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from tests.chat_templates import (
    FAMILIES,
    MANY_TURNS,
    WITH_SYSTEM,
    WITH_TOOLS,
    end_ids,
    talks_of,
    tokenizer_of,
)

ASKED, ANSWERED = {"role": "user", "content": "what?"}, {"role": "assistant", "content": "that"}
TAIL = [{"role": "tool", "content": "rain"}, ANSWERED]


def encoder_of(name: str = "qwen", *, marked: bool = False, **spec: Any) -> Encoder:
    given = DataSpec(source="x", **({"max_input_tokens": 4096} | spec))
    return Encoder(
        "conversation", tokenizer_of(name, marked=marked), given, None, ModelFacts(end_ids=end_ids(name))
    )


def encoded(encoder: Encoder, *talks: dict[str, Any]) -> Encoded:
    records = [Record(f"row {number}", dict(talk)) for number, talk in enumerate(talks)]
    return encoder.encode(conversation_rows(records, encoder.spec))


def learned(encoder: Encoder, talk: dict[str, Any]) -> list[str]:
    """The texts that are learned, each run of labels for itself."""
    [feature] = encoded(encoder, talk).features
    runs: list[list[int]] = [[]]
    for label in feature["labels"]:
        if label == -100:
            runs.append([])
        else:
            runs[-1].append(label)
    return [encoder.tokens.tokenizer.decode(run) for run in runs if run]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_answer_is_learned_with_its_end(name: str, marked: bool) -> None:
    encoder = encoder_of(name, marked=marked)
    found = encoded(encoder, *talks_of(name))
    assert supervision(encoder, found).sound
    for talk, feature in zip(talks_of(name), found.features, strict=True):
        answers = [m for m in talk["messages"] if m["role"] == "assistant"]
        shown = learned(encoder, talk)
        assert len(shown) == len(answers)
        for answer, text in zip(answers, shown, strict=True):
            assert answer["content"] in text
        # What comes before the last answer is what the whole begins with.
        assert feature["input_ids"][: feature["prompt_length"]] == feature["prompt_ids"]
        prompt = encoder.tokens.tokenizer.decode(feature["prompt_ids"])
        assert answers[-1]["content"] not in prompt.rpartition("\n")[2]


def test_a_prompt_in_training_is_that_of_prediction() -> None:
    from deltatune.data.load import prompt_row

    for name in FAMILIES:
        encoder = encoder_of(name)
        [feature] = encoded(encoder, MANY_TURNS).features
        [asked] = encoder.encode(
            [prompt_row({"messages": MANY_TURNS["messages"][:-1]}, encoder.spec, "conversation")],
            supervised=False,
        ).features
        assert asked["input_ids"] == feature["prompt_ids"], name


@pytest.mark.parametrize("marked", [True, False])
def test_what_is_learned_may_be_chosen(marked: bool) -> None:
    last = encoder_of(marked=marked, train_on="last_assistant")
    assert learned(last, MANY_TURNS) == ["!<|im_end|>"]
    [feature] = encoded(encoder_of(marked=marked, train_on="all"), MANY_TURNS).features
    assert feature["labels"] == feature["input_ids"]
    marks = [dict(m) for m in MANY_TURNS["messages"]]
    marks[1]["train"] = False
    assert len(learned(encoder_of(marked=marked), {"messages": marks})) == 2


def test_nothing_behind_the_last_answer_is_read() -> None:
    whole, behind = (
        encoded(encoder_of(), {"messages": m}) for m in ([ASKED, ANSWERED], [ASKED, ANSWERED, ASKED])
    )
    assert whole.features == behind.features


@pytest.mark.parametrize("marked", [True, False])
def test_too_long_conversations_lose_whole_turns(marked: bool) -> None:
    lengths = []
    for limit in range(20, 140, 7):
        encoder = encoder_of(marked=marked, max_input_tokens=limit)
        if limit < 41:
            with pytest.raises(SilentRowError, match="nothing is left to learn"):
                encoded(encoder, WITH_SYSTEM)
            continue
        found = encoded(encoder, WITH_SYSTEM)
        [feature] = found.features
        assert len(feature["input_ids"]) <= limit
        shown = encoder.tokens.tokenizer.decode(feature["input_ids"])
        assert shown.startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n")
        assert shown.rstrip("\n").endswith("!<|im_end|>")
        assert all(text.endswith("<|im_end|>") for text in learned(encoder, WITH_SYSTEM))
        assert found.report.truncated_inputs == (len(learned(encoder, WITH_SYSTEM)) < 3)
        assert feature["input_ids"][: feature["prompt_length"]] == feature["prompt_ids"]
        lengths.append(len(learned(encoder, WITH_SYSTEM)))
    assert lengths == sorted(lengths)
    assert set(lengths) == {1, 2, 3}


def test_rows_with_nothing_left_are_counted_and_named() -> None:
    long = {"messages": [{"role": "user", "content": "word " * 99}, ANSWERED]}
    short = {"messages": [ASKED, ANSWERED]}
    with pytest.raises(
        SilentRowError,
        match=r"row 1: has \d+ tokens in its last answer.* 2 more of 5 rows teach nothing either: 2, 4\. "
        r"\d+ tokens would do for all",
    ):
        encoded(encoder_of(max_input_tokens=60), short, long, long, short, long)


def test_a_template_that_drops_earlier_thoughts_is_refused() -> None:
    tokenizer = tokenizer_of("qwen", marked=False)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content.split('</think>')[-1] if not loop.last "
        "else m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    thought = {"role": "assistant", "content": "hm</think>that"}
    talk = {"messages": [ASKED, thought, ASKED, thought]}
    with pytest.raises(DataError, match=r"up to message 2 of row 0 in another way.*train_on: last_assistant"):
        encoded(Encoder("conversation", tokenizer, DataSpec(source="x")), talk)
    encoder = Encoder("conversation", tokenizer, DataSpec(source="x", train_on="last_assistant"))
    assert learned(encoder, talk) == ["hm</think>that<|im_end|>"]


def test_answers_without_an_end_are_refused_but_the_last() -> None:
    tokenizer = tiny_tokenizer("llama")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    talk = {"messages": [ASKED, ANSWERED, ASKED, ANSWERED]}
    with pytest.raises(DataError, match=r"no end token behind an answer \(row 0\).*such as plain"):
        encoded(Encoder("conversation", tokenizer, DataSpec(source="x")), talk)
    encoder = Encoder("conversation", tokenizer, DataSpec(source="x", train_on="last_assistant"))
    assert [text.strip() for text in learned(encoder, talk)] == ["that </s>"]


def test_a_tokenizer_without_a_template_needs_one() -> None:
    tokenizer = tiny_tokenizer("gpt2")
    with pytest.raises(DataError, match=r"data.chat_template: is missing.*Set it to plain"):
        Encoder("conversation", tokenizer, DataSpec(source="x"))
    encoder = Encoder("conversation", tokenizer, DataSpec(source="x", chat_template="plain"))
    assert learned(encoder, MANY_TURNS)[0] == "net sales increased by 5.2 %<|endoftext|>"
    [feature] = encoded(encoder, {"messages": [ASKED, ANSWERED]}).features
    assert tokenizer.decode(feature["prompt_ids"]) == "User:\nwhat?\n\nAssistant:\n"
    shown = encoder.preview(feature)
    assert [piece for piece, may in shown if may] == encoder.tokens.pieces(
        [*tokenizer("that")["input_ids"], tokenizer.eos_token_id]
    )


def test_tools_that_a_template_leaves_out_are_told() -> None:
    result = [
        ASKED,
        ANSWERED | {"train": False, **{"tool_calls": WITH_TOOLS["messages"][2]["tool_calls"]}},
        *TAIL,
    ]
    found = encoded(encoder_of("smollm2"), {"messages": result, "tools": WITH_TOOLS["tools"]})
    [warning] = found.report.fidelity.warnings(1, "training")
    assert (
        "does not write all of 1 of 1 training conversations (row 0: the template leaves out the " in warning
    )
    with pytest.raises(
        DataError, match=r"an answer that says nothing: the template leaves out the call of 'weather'"
    ):
        encoded(encoder_of("smollm2"), WITH_TOOLS)
    assert not encoded(encoder_of("qwen"), WITH_TOOLS).report.fidelity.warnings(1, "training")


@pytest.mark.parametrize("marked", [True, False])
def test_messages_that_a_template_leaves_out_are_told(marked: bool) -> None:
    """Llama 2's keeps the last of several system messages, and no tool's."""
    twice = [{"role": "system", "content": "be short"}, {"role": "system", "content": "be  kind"}, *TAIL]
    found = encoded(encoder_of("llama2", marked=marked), {"messages": twice}, MANY_TURNS)
    [warning] = found.report.fidelity.warnings(2, "training")
    assert (
        "all of 1 of 2 training conversations (row 0: the template leaves out message 1, of the system)"
        in (warning)
    )
    for family in ("qwen", "smollm2", "llama3"):
        found = encoded(encoder_of(family, marked=marked), {"messages": twice}, MANY_TURNS)
        assert not found.report.fidelity.warnings(2, "training")


def test_the_reference_of_a_call_is_what_the_template_writes() -> None:
    called = {"messages": WITH_TOOLS["messages"][:3], "tools": WITH_TOOLS["tools"]}
    plain, call = encoded(encoder_of(), MANY_TURNS, called).features
    assert "reference" not in plain
    assert call["reference"].startswith('<call>{"name": "weather"')


@pytest.mark.parametrize(
    "talk",
    [
        [ASKED, ANSWERED] * 150,
        [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, ASKED, ANSWERED],
        [ANSWERED, ASKED, ANSWERED],
        [ASKED, ASKED, ANSWERED, ANSWERED],
        [ASKED, {"role": "assistant", "content": "🥇👩‍👩‍👧‍👦 <|im_end|> \u200b "}],
        [{"role": "user", "content": ""}, ANSWERED],
        WITH_TOOLS["messages"],
    ],
    ids=[
        "300 turns",
        "two system messages",
        "assistant first",
        "twice the same role",
        "emoji",
        "empty",
        "tools",
    ],
)
@pytest.mark.parametrize("marked", [True, False])
def test_hard_inputs(talk: list[dict[str, Any]], marked: bool) -> None:
    encoder = encoder_of(marked=marked, max_input_tokens=8192)
    found = encoded(encoder, {"messages": talk})
    assert supervision(encoder, found).sound
    answers = [m["content"] for m in talk if m["role"] == "assistant"]
    shown = learned(encoder, {"messages": talk})
    assert len(shown) == len(answers)
    assert all(answer in text for answer, text in zip(answers, shown, strict=True))


@pytest.mark.slow
def test_a_row_of_five_megabytes() -> None:
    talk = [{"role": "user", "content": "word " * 1_000_000}, ANSWERED]
    with pytest.raises(SilentRowError, match="tokens in its last answer and the turn before it"):
        encoded(encoder_of(max_input_tokens=512), {"messages": talk})


def test_long_turns_that_are_left_out() -> None:
    talk = [{"role": "user", "content": "word " * 10_000}, ANSWERED, ASKED, ANSWERED]
    [feature] = encoded(encoder_of(max_input_tokens=512), {"messages": talk}).features
    assert len(feature["input_ids"]) < 40


def test_what_a_template_refuses_is_said_with_its_words() -> None:
    with pytest.raises(DataError, match=r"row 0: is refused by the chat template: No system\. Mend"):
        encoded(encoder_of("gemma"), WITH_SYSTEM)
