"""What Sentence Transformers reads beside a model: how vectors are pooled, and what stands before texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltatune.files import write_json
from deltatune.recipe.sections import DataSpec
from deltatune.recipe.templates import fill_template, template_fields

_MODES = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
_KINDS = (
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
)


def write_sentence_files(folder: Path, pooling: str, width: int, data: DataSpec) -> None:
    """Write them into the folder of a merged model, in the form that all versions since 2 read.

    Args:
        folder: With the model and its tokenizer.
        pooling: `mean`, `cls` or `last`.
        width: Of a vector.
        data: The recipe's, for the limit of tokens and the templates. A template that begins with a text and
            ends with the row's becomes a prompt, by the names `query` and `document`.
    """
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    content = [
        {"idx": int(idx), "name": idx, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for idx, path, kind in modules
    ]
    write_json(folder / "modules.json", content)
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{kind}": kind == _MODES[pooling] for kind in _KINDS}
    write_json(folder / "1_Pooling/config.json", {"word_embedding_dimension": width, **modes})
    limits = {"max_seq_length": data.max_input_tokens, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limits)
    prompts = {"query": _prompt(data.template, "input"), "document": _prompt(data.target_template, "target")}
    about: dict[str, Any] = {
        "prompts": {name: prompt for name, prompt in prompts.items() if prompt},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    write_json(folder / "config_sentence_transformers.json", about)


def _prompt(template: str | None, field: str) -> str | None:
    """What a template puts before a text; None if it does something else as well."""
    if template is None or template_fields(template) != [field] or not template.endswith(f"{{{field}}}"):
        return None
    return fill_template(template, {field: ""})
