"""Modelfiles, read by the grammar that Ollama documents, and templates beside what the model's own write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltatune.errors import DeltatuneError
from deltatune.exporting.ollama import Modelfile, Turn, Turns, literal, prompt_template, quoted, turns_of
from deltatune.exporting.target import named_for_others

INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DEFAULTING = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ '<|begin|>' }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' "
    "+ m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' "
    "+ m.content + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + '</s>' }}"
    "{% else %}{{ raise_exception('no such role') }}{% endif %}{% endfor %}"
)
HOSTILE = "{% for m in messages %}{{ '{{\"\"\"' + m.role + '}}' + m.content + '\"' }}{% endfor %}"
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' }}"
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}"
    "{{ '<<SYS>>' + messages[0].content + '<</SYS>>' }}{% endif %}{{ m.content + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
)
LAST_ONLY = "{{ messages[-1].content }}"


def parsed(text: str) -> list[tuple[str, str]]:
    """Instructions and their arguments, as docs/modelfile of Ollama says.

    One an instruction, `#` begins a comment; an argument of several lines stands between three quotation
    marks, one with blanks at its ends between single ones; nothing is escaped.
    """
    found, place = [], 0
    while place < len(text):
        if text[place] in "\r\n \t":
            place += 1
        elif text[place] == "#":
            place = text.index("\n", place)
        else:
            name = re.compile(r"[A-Za-z]+").match(text, place)
            assert name is not None, text[place : place + 20]
            assert name[0].upper() in INSTRUCTIONS
            place = name.end() + 1
            if name[0] == "PARAMETER":
                key = re.compile(r"\w+ ").match(text, place)
                assert key is not None
                found.append((f"PARAMETER {key[0].strip()}", ""))
                place = key.end()
            else:
                found.append((name[0].upper(), ""))
            value, place = argument(text, place)
            found[-1] = (found[-1][0], value)
    return found


def argument(text: str, place: int) -> tuple[str, int]:
    """An argument, and where the next line begins: it ends with a line that closes its quotes."""
    end = place
    while True:
        end = text.find("\n", end) if "\n" in text[end:] else len(text)
        value = text[place:end].strip()
        for quote in ('"""', '"'):
            if value.startswith(quote):
                if len(value) >= 2 * len(quote) and value.endswith(quote):
                    return value[len(quote) : -len(quote)], end + 1
                break
        else:
            return value, end + 1
        assert end < len(text), "quotes that nothing closes"
        end += 1


def of(template: str) -> Any:
    def raise_exception(text: str) -> None:
        raise jinja2.TemplateError(text)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = raise_exception
    made = environment.from_string(template)

    def write(turns: Sequence[Turn], answering: bool) -> str:
        talk = [{"role": role, "content": content} for role, content in turns]
        return made.render(messages=talk, add_generation_prompt=answering)

    return write


def in_go(template: str, turns: Sequence[Turn]) -> str:
    """What Go's templates make of the few forms that are written: if, else if, end, range, fields, texts."""
    pieces = re.split(r"\{\{ (.*?) \}\}", template)
    system = any(role == "system" for role, _ in turns)

    def texts(parts: list[str], turn: Turn | None) -> str:
        out, shown, stack = [], True, []
        for index, part in enumerate(parts):
            if index % 2 == 0:
                out.append(part if shown else "")
            elif part.startswith('"'):
                out.append(part[1:-1].replace('\\"', '"') if shown else "")
            elif part == ".Content":
                out.append(turn[1] if shown and turn else "")
            elif part == "if not .System":
                stack.append(shown)
                shown = not system
            elif role := re.fullmatch(r'(if|else if) eq \.Role "(\w+)"', part):
                if role[1] == "if":
                    stack.append(shown)
                shown = turn is not None and turn[0] == role[2]
            else:
                assert part == "end"
                shown = stack.pop()
        return "".join(out)

    begin = pieces.index("range .Messages")
    end = len(pieces) - 1 - pieces[::-1].index("end")
    inside = pieces[begin + 1 : end]
    return (
        texts(pieces[:begin], None)
        + "".join(texts(inside, turn) for turn in turns)
        + texts(pieces[end + 1 :], None)
    )


@pytest.mark.parametrize(
    ("template", "roles"),
    [(CHATML, 3), (DEFAULTING + CHATML, 3), (LLAMA_3, 3), (GEMMA, 2), (MISTRAL, 2), (HOSTILE, 3)],
)
def test_a_template_of_fixed_texts_becomes_one_of_ollama(template: str, roles: int) -> None:
    found = turns_of(of(template))
    assert found is not None
    assert len(found.around) == roles
    talks: list[list[Turn]] = [
        [("user", 'a "quoted" {{ .Prompt }}\nquestion')],
        [("user", "one"), ("assistant", "two"), ("user", "three")],
    ]
    if roles == 3:
        talks += [[("system", "Be brief."), *talk] for talk in talks]
    for talk in talks:
        assert in_go(found.go(), talk) == of(template)(talk, True)


def test_a_template_that_does_more_has_no_form() -> None:
    assert turns_of(of(LAST_ONLY)) is None
    assert "system" not in (turns_of(of(LLAMA_2)) or Turns({})).around
    assert turns_of(of("{{ undefined.thing }}")) is None


@settings(max_examples=50)
@given(st.text())
def test_any_text_in_a_template_is_written_as_it_is(text: str) -> None:
    text = text.replace("\r", "")
    go = literal(text)
    assert '"""' not in go
    pieces = re.split(r'\{\{ "(.*?)" \}\}', go)
    said = [p.replace('\\"', '"') if i % 2 else p for i, p in enumerate(pieces)]
    assert "".join(said) == text
    assert not any("{" in piece for piece in pieces[::2])


@settings(max_examples=50)
@given(st.text(), st.text(min_size=1))
def test_what_a_modelfile_says_is_read_as_it_was_meant(template: str, stop: str) -> None:
    made = Modelfile(
        "./model.gguf", template=literal(template), stops=[stop], parameters={"temperature": "0"}
    )
    if '"""' in stop or "\0" in template + stop:
        with pytest.raises(DeltatuneError, match="have no escape"):
            made.text()
        return
    text = made.text()
    assert parsed(text) == [
        ("FROM", "./model.gguf"),
        ("TEMPLATE", literal(template)),
        ("PARAMETER stop", stop),
        ("PARAMETER temperature", "0"),
    ]


def test_comments_stay_comments() -> None:
    made = Modelfile("base", adapter="./a b.gguf", comments=["one\nFROM evil", "\x1b[31m"], system='say "hi"')
    assert parsed(made.text()) == [("FROM", "base"), ("ADAPTER", "./a b.gguf"), ("SYSTEM", 'say "hi"')]
    assert "\x1b" not in made.text()


def test_quotes_that_would_end_a_value_are_refused() -> None:
    with pytest.raises(DeltatuneError, match="three quotation marks"):
        quoted('a """ b')


def test_a_template_of_one_column_becomes_the_prompt() -> None:
    assert prompt_template("Title of {{{text}}}:") == 'Title of {{ "{" }}{{ .Prompt }}{{ "}" }}:'
    assert prompt_template("{a} and {b}") is None


def test_a_file_for_others_does_not_tell_where_its_base_lies() -> None:
    assert named_for_others("/home/ada/secret/tiny-llama") == "tiny-llama"
    assert named_for_others("~/models/tiny-llama") == "tiny-llama"
    assert named_for_others("google-t5/t5-small") == "google-t5/t5-small"
