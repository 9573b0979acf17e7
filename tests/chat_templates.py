"""Chat templates in the style of a dozen families of models, and tokenizers that know their special tokens.

Each is written here, short, after the habits of its family: where the begin token stands, what ends a turn,
what becomes of system messages and tools. `[[` and `]]` stand around what the assistant says; `template`
turns them into generation markers, or leaves them out.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerFast

from deltatune.testing.tiny_tokenizers import tiny_tokenizer

_CALLS = "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}"
_TOOLS = "{% if tools %}{{ tools | tojson }}{% endif %}"


@dataclass(frozen=True)
class Family:
    """A family's template.

    Args:
        text: The template, with `[[` and `]]` around what the assistant says.
        special: Special tokens, the one that ends a turn first.
        eos: The tokenizer's end of a text.
        system: Whether it takes system messages.
        tools: Whether it writes tools, calls and results.
        ends: More tokens that end a turn, as a model's generation config names them.
    """

    text: str
    special: tuple[str, ...]
    eos: str
    system: bool = True
    tools: bool = False
    ends: tuple[str, ...] = ()

    def template(self, *, marked: bool) -> str:
        """The template, with generation markers or without any."""
        marks = ("{% generation %}", "{% endgeneration %}") if marked else ("", "")
        text = self.text.replace("[[", marks[0]).replace("]]", marks[1])
        return text.replace("%}\n", "%}{{ '\\n' }}")  # Transformers drops a line break behind a block


FAMILIES: dict[str, Family] = {
    "qwen": Family(
        "{% if tools %}<|im_start|>system\n# Tools\n" + _TOOLS + "<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}[[{{ m.content }}" + _CALLS + "<|im_end|>]]"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_end|>", "<|im_start|>"), "<|im_end|>", tools=True,
    ),
    "smollm2": Family(
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n"
        "[[{{ m.content }}<|im_end|>]]\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|im_end|>", "<|im_start|>"), "<|im_end|>",
    ),
    "llama3": Family(
        "{{ bos_token }}{% if tools %}<|start|>system<|stop|>\n\n" + _TOOLS + "<|eot|>{% endif %}"
        "{% for m in messages %}<|start|>{{ 'ipython' if m.role == 'tool' else m.role }}<|stop|>\n\n"
        "{% if m.role == 'assistant' %}[[{{ m.content | trim }}" + _CALLS + "<|eot|>]]"
        "{% else %}{{ m.content | trim }}<|eot|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}",
        ("<|eot|>", "<|start|>", "<|stop|>"), "<|eot|>", tools=True,
    ),
    "llama2": Family(
        "{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}"
        "{% elif m.role == 'user' %}{{ bos_token }}[INST] {{ ns.system + m.content | trim }} [/INST]"
        "{% set ns.system = '' %}{% else %}[[ {{ m.content | trim }} {{ eos_token }}]]{% endif %}"
        "{% endfor %}",
        (), "</s>",
    ),
    "mistral": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[SYS]{{ m.content }}[/SYS]"
        "{% elif m.role == 'user' %}{% if loop.index < 3 %}[TOOLS]" + _TOOLS + "[/TOOLS]{% endif %}"
        "[INST]{{ m.content }}[/INST]{% elif m.role == 'tool' %}[RESULT]{{ m.content }}[/RESULT]"
        "{% else %}[[{{ m.content }}" + _CALLS + "{{ eos_token }}]]{% endif %}{% endfor %}",
        ("[INST]", "[/INST]", "[SYS]", "[/SYS]"), "</s>", tools=True,
    ),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}<start_of_turn>model\n"
        "[[{{ m.content | trim }}<end_of_turn>]]\n{% else %}<start_of_turn>{{ m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<end_of_turn>", "<start_of_turn>"), "</s>", system=False,
    ),
    "phi3": Family(  # ends every text by a token of its own, so that a part is no beginning of the whole
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}[[{{ m.content }}<|end|>]]\n"
        "{% else %}{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), "</s>",
    ),
    "zephyr": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
        "[[{{ m.content + eos_token }}]]"
        "{% else %}{{ m.content + eos_token }}{% endif %}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        (), "</s>",
    ),
    "deepseek": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}{% elif m.role == 'tool' %}"
        "<|Out|>{{ m.content }}<|Out-end|>{% else %}<|Assistant|>[[{{ m.content }}" + _CALLS +
        "{{ eos_token }}]]{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|>{% endif %}",
        ("<|User|>", "<|Assistant|>"), "</s>",
    ),
    "command-r": Family(
        "{{ bos_token }}{% if tools %}<|TURN|><|SYSTEM|>" + _TOOLS + "<|END|>{% endif %}"
        "{% for m in messages %}<|TURN|>{% if m.role == 'assistant' %}<|CHATBOT|>[[{{ m.content | trim }}" +
        _CALLS + "<|END|>]]{% elif m.role == 'user' %}<|USER|>{{ m.content | trim }}<|END|>"
        "{% else %}<|SYSTEM|>{{ m.content | trim }}<|END|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|TURN|><|CHATBOT|>{% endif %}",
        ("<|END|>", "<|TURN|>", "<|USER|>", "<|CHATBOT|>", "<|SYSTEM|>"), "<|END|>", tools=True,
    ),
    "glm": Family(  # a turn ends by the role of the next one
        "[gMASK]{% if tools %}<|system|>\n" + _TOOLS + "{% endif %}"
        "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>[[\n{{ m.content }}" + _CALLS +
        "{% if loop.last %}{% else %}{{ '<|observation|>' if m.tool_calls else '<|user|>' }}{% endif %}]]"
        "{% else %}{% if loop.first or messages[loop.index0 - 1].role != 'assistant' %}"
        "{{ '<|observation|>' if m.role == 'tool' else '<|' + m.role + '|>' }}{% endif %}\n{{ m.content }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ("<|user|>", "<|observation|>", "<|assistant|>", "<|system|>"), "</s>", tools=True,
        ends=("<|user|>", "<|observation|>"),
    ),
    "olmo": Family(
        "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
        "[[{{ m.content }}{{ eos_token }}]]{% if not loop.last %}\n{% endif %}"
        "{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        (), "</s>",
    ),
}  # fmt: skip


@functools.cache
def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    family = FAMILIES[name]
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.special)})
    tokenizer.add_special_tokens({"eos_token": family.eos, "pad_token": "</s>"})
    return tokenizer


def tokenizer_of(name: str, *, marked: bool) -> Any:
    """A family's tokenizer with its template."""
    tokenizer = copy.deepcopy(_tokenizer(name))
    tokenizer.chat_template = FAMILIES[name].template(marked=marked)
    return tokenizer


def end_ids(name: str) -> tuple[int, ...]:
    """What a model's generation config names as ends."""
    return tuple(_tokenizer(name).convert_tokens_to_ids(list(FAMILIES[name].ends)))


_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
_CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Oslo"}}}

ONE_TURN = {"messages": [
    {"role": "user", "content": "the quick brown fox"},
    {"role": "assistant", "content": "jumps over the lazy dog"},
]}  # fmt: skip
MANY_TURNS = {"messages": [
    {"role": "user", "content": "In the third quarter?"},
    {"role": "assistant", "content": "net sales increased by 5.2 %"},
    {"role": "user", "content": "And medals?\n\n Two lines."},
    {"role": "assistant", "content": "Two: gold 🥇\nand silver."},
    {"role": "user", "content": "Thanks"},
    {"role": "assistant", "content": "!"},
]}  # fmt: skip
WITH_SYSTEM = {"messages": [{"role": "system", "content": "Be short."}, *MANY_TURNS["messages"]]}
WITH_TOOLS = {
    "messages": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye"},
    ],
    "tools": [_WEATHER],
}


def talks_of(name: str) -> list[dict[str, Any]]:
    """Conversations that a family's template takes."""
    family = FAMILIES[name]
    system, tools = [WITH_SYSTEM] * family.system, [WITH_TOOLS] * family.tools
    return [ONE_TURN, MANY_TURNS, *system, *tools]
