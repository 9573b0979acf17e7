"""A Modelfile for Ollama, beside a GGUF file.

Ollama's templates are Go's, and the model's own is Jinja. Most chat templates do one thing: they put a text
before and one behind each turn, by its role. Whether a template does so is found by what it writes of some
conversations, not by how it is written, and the Go template is checked with them before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deltatune.data.chat import chat_template
from deltatune.errors import DeltatuneError
from deltatune.exporting.target import named_for_others
from deltatune.printable import printable
from deltatune.recipe.sections import CHAT
from deltatune.recipe.templates import fill_template, template_fields
from deltatune.runs.loaded import LoadedRun
from deltatune.tasks import TASKS

ROLES = ("system", "user", "assistant")
Turn = tuple[str, str]
Write = Callable[[Sequence[Turn], bool], str]
"""What a chat template writes of turns (role, content), and whether an answer shall follow.

Raises what a template raises that refuses them."""
_SYSTEM, _USER, _ANSWER = "§system§", "§user§", "§answer§"
_QUOTES = '"""'
_GREEDY = {"temperature": "0"}


@dataclass(frozen=True)
class Turns:
    """A chat template that puts fixed texts around turns."""

    around: Mapping[str, tuple[str, str]]
    """What stands before and behind a turn, by its role."""
    begin: str = ""
    """What stands before all turns."""
    unasked: str = ""
    """What stands there as well where no turn is the system's: a default system prompt."""
    answer: str = ""
    """What begins an answer."""

    def text(self, turns: Sequence[Turn], answering: bool) -> str:
        """What it writes."""
        parts = [self.begin, "" if any(role == "system" for role, _ in turns) else self.unasked]
        for role, content in turns:
            before, behind = self.around[role]
            parts += [before, content, behind]
        return "".join(parts) + (self.answer if answering else "")

    def go(self) -> str:
        """The same as a template of Ollama."""
        branches = [
            f'{{{{ {word} eq .Role "{role}" }}}}{literal(before)}{{{{ .Content }}}}{literal(behind)}'
            for word, (role, (before, behind)) in zip(
                ("if", "else if", "else if"), self.around.items(), strict=False
            )
        ]
        unasked = f"{{{{ if not .System }}}}{literal(self.unasked)}{{{{ end }}}}" if self.unasked else ""
        turns = f"{{{{ range .Messages }}}}{''.join(branches)}{{{{ end }}}}{{{{ end }}}}"
        return literal(self.begin) + unasked + turns + literal(self.answer)


def turns_of(write: Write) -> Turns | None:
    """The fixed texts that a chat template puts around turns; None if it does something else."""
    try:
        return _turns_of(write)
    except Exception:  # a template is a program of others, and may refuse what it likes
        return None


def _turns_of(write: Write) -> Turns | None:
    two = write([("user", _USER), ("assistant", _ANSWER)], False)
    three = write([("user", _USER), ("assistant", _ANSWER), ("user", "§again§")], False)
    begin, _, rest = two.partition(_USER)
    between, _, behind = rest.partition(_ANSWER)
    before_again, _, behind_user = three.removeprefix(begin + _USER + between + _ANSWER).partition("§again§")
    if not before_again.startswith(behind) or not between.startswith(behind_user):
        return None
    before_user = before_again[len(behind) :]
    around = {"user": (before_user, behind_user), "assistant": (between[len(behind_user) :], behind)}
    if not begin.endswith(before_user):
        return None
    begun = begin[: len(begin) - len(before_user)]
    alone = write([("user", _USER)], False)
    answer = write([("user", _USER)], True).removeprefix(alone)
    # Where the system's turn stands, and what stands there of itself without one.
    try:
        led = write([("system", _SYSTEM), ("user", _USER)], False)
    except Exception:  # it has no such role
        led = ""
    first, unasked = begun, ""
    if _SYSTEM in led:
        before_system, _, behind_system = led.partition(_SYSTEM)
        behind_system = behind_system.removesuffix(before_user + _USER + behind_user)
        first = _shared(begun, before_system)
        around = {"system": (before_system[len(first) :], behind_system), **around}
        unasked = begun[len(first) :]
    found = Turns(around, first, unasked, answer)
    return found if _agrees(found, write) else None


def _shared(first: str, second: str) -> str:
    """What both begin with, if that is all of the first; else nothing, since it is a turn by itself."""
    return first if second.startswith(first) else ""


def _agrees(found: Turns, write: Write) -> bool:
    """Whether fixed texts give what the template gives, of conversations of several forms."""
    talks: list[list[Turn]] = [
        [("user", "What is {{ 1 }}?")],
        [("user", "one\ntwo"), ("assistant", "three"), ("user", 'four "five"')],
        [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    ]
    if "system" in found.around:
        talks += [[("system", "Be brief."), *talk] for talk in talks]
    return all(write(talk, True) == found.text(talk, True) for talk in talks)


def literal(text: str) -> str:
    """A text that a Go template writes as it is, and that no quotation mark of a Modelfile ends."""
    return re.sub(r'[{}]+|"{3,}', lambda found: '{{ "' + found[0].replace('"', '\\"') + '" }}', text)


def prompt_template(template: str) -> str | None:
    """The recipe's template of one column as a template of Ollama; None of several columns."""
    if len(template_fields(template)) != 1:
        return None
    [name] = template_fields(template)
    mark = "§input§"
    before, _, behind = fill_template(template, {name: mark}).partition(mark)
    return f"{literal(before)}{{{{ .Prompt }}}}{literal(behind)}"


@dataclass(frozen=True)
class Modelfile:
    """What a Modelfile says."""

    source: str
    """The model: a file beside it, or a name that Ollama knows."""
    adapter: str | None = None
    template: str | None = None
    """In Go's language."""
    system: str | None = None
    stops: Sequence[str] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    comments: Sequence[str] = ()

    def text(self) -> str:
        """The file.

        Raises:
            DeltatuneError: A text cannot be written: the grammar has no escape for three quotation marks.
        """
        lines = [f"# {printable(' '.join(comment.split()))}" for comment in self.comments]
        lines.append(f"FROM {quoted(self.source)}")
        if self.adapter is not None:
            lines.append(f"ADAPTER {quoted(self.adapter)}")
        if self.template is not None:
            lines.append(f"TEMPLATE {quoted(self.template)}")
        if self.system is not None:
            lines.append(f"SYSTEM {quoted(self.system)}")
        lines += [f"PARAMETER stop {quoted(stop)}" for stop in self.stops]
        lines += [f"PARAMETER {name} {value}" for name, value in self.parameters.items()]
        return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A value of a Modelfile.

    Raises:
        DeltatuneError: It holds three quotation marks on end, which end a value, or a NUL.
    """
    if _QUOTES in text or "\0" in text:
        raise DeltatuneError(
            "a text of the Modelfile holds three quotation marks on end or a NUL, which have no escape.",
            remedy="Change the text.",
        )
    if re.fullmatch(r"[\w./:-]+", text):
        return text
    if "\n" not in text and '"' not in text:
        return f'"{text}"'
    return f"{_QUOTES}{text}{_QUOTES}"


def writer_of(tokenizer: Any, template: str | None = None) -> Write:
    """What a tokenizer's chat template writes, without the begin token that llama.cpp puts there."""
    adds = tokenizer("a", verbose=False)["input_ids"][:1] == [tokenizer.bos_token_id]
    begin = tokenizer.bos_token if adds and tokenizer.bos_token else ""

    def write(turns: Sequence[Turn], answering: bool) -> str:
        talk = [{"role": role, "content": content} for role, content in turns]
        text = str(
            tokenizer.apply_chat_template(
                talk, chat_template=template, tokenize=False, add_generation_prompt=answering
            )
        )
        return text.removeprefix(begin)

    return write


def modelfile_of(
    loaded: LoadedRun, source: str, adapter: str | None = None
) -> tuple[Modelfile | None, list[str]]:
    """The Modelfile of a run's model, and what must be known of it; none of a model that gives classes.

    Args:
        loaded: The run.
        source: The file of the model, as seen from the Modelfile.
        adapter: The file of a LoRA.
    """
    task, spec = TASKS.get(loaded.recipe.task), loaded.recipe.data
    about = [f"deltatune: {loaded.name} ({loaded.method}) on {named_for_others(loaded.base.name)}"]
    if task.embeds:
        return Modelfile(source, adapter, comments=about), []
    if not task.writes_text:
        return None, []
    notes, template = [], None
    if spec.template == CHAT or task.conversations:
        turns = turns_of(writer_of(loaded.base.processor, chat_template(spec.chat_template)))
        template = None if turns is None else turns.go()
        if turns is None:
            notes.append(
                "The Modelfile has no TEMPLATE: the chat template does more than to put texts around turns, "
                "so no form in Ollama's language could be checked. Ollama makes one of the template in the "
                "GGUF file; compare its answers with those of `deltatune predict`."
            )
    else:
        template = prompt_template(spec.template)
        if template is None:
            template = "{{ .Prompt }}"
            fields = ", ".join(template_fields(spec.template))
            notes.append(
                f"The run's template has several columns ({fields}). The Modelfile passes prompts on as they "
                f"are: write them as the template does, {spec.template!r}."
            )
    tokenizer = loaded.base.processor
    stops = [str(tokenizer.convert_ids_to_tokens(number)) for number in loaded.encoder.tokens.eos_ids]
    comments = [*about, "as it was evaluated: the likeliest token each time", *notes]
    return Modelfile(source, adapter, template, stops=stops, parameters=_GREEDY, comments=comments), notes
