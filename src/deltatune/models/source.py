"""Where a base comes from, how its tokenizer is read, and what went wrong if it cannot be."""

from __future__ import annotations

import contextlib
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import constants as hub
from transformers import AutoImageProcessor, AutoTokenizer

from deltatune.errors import DeltatuneError, ModelError
from deltatune.models.bundled import PREFIX, resolve
from deltatune.models.resolution import processor_sizes
from deltatune.tasks import TASKS

if TYPE_CHECKING:
    from deltatune.recipe.base_sections import ModelSpec


@dataclass(frozen=True)
class Source:
    """What `from_pretrained` is called with."""

    name: str
    path: str
    options: dict[str, Any]


def locate(spec: ModelSpec) -> Source:
    """Tell a bundled model, a local folder, a GGUF file and a hub id apart."""
    options: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code}
    if spec.name.startswith(PREFIX):
        return Source(spec.name, str(resolve(spec.name)), options)
    path = Path(spec.name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return Source(spec.name, str(path.parent), options | {"gguf_file": path.name})
    if path.is_dir():
        _check_folder(path, spec.name)
        return Source(spec.name, str(path), options)
    looks_local = spec.name.startswith((".", "/", "~", "\\")) or path.suffix == ".gguf" or path.is_file()
    if looks_local or spec.name.count("/") > 1:
        raise ModelError(
            f"there is no model folder '{spec.name}'.",
            field="model",
            remedy="Give a folder with config.json and model.safetensors, a .gguf file, a model id of the "
            "Hugging Face hub (owner/name) or bundled:<name>.",
        )
    if spec.revision:
        options["revision"] = spec.revision
    # The hub's client tries for half a minute; without a hub, what was downloaded before is still good.
    options["local_files_only"] = not _hub_answers()
    return Source(spec.name, spec.name, options)


def _check_folder(path: Path, name: str) -> None:
    if (path / "config.json").is_file() and not (path / "adapter_config.json").exists():
        return
    if (path / "config.json").is_file():
        raise ModelError(
            f"'{name}' holds a model and a saved delta: Transformers would take the base that this names.",
            field="model",
            remedy="Move adapter_config.json and its tensors to a folder of their own.",
        )
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"'{name}' holds a saved delta, not a base model.",
            field="model",
            remedy="Name the base model here; deltas are given to evaluate, predict and merge.",
        )
    raise ModelError(
        f"the folder '{name}' has no config.json, so it is not a Transformers model.",
        field="model",
        remedy="Give a folder written by save_pretrained, or the path of a .gguf file.",
    )


def _hub_answers() -> bool:
    """Ask the Hugging Face hub (or its mirror in HF_ENDPOINT) once, for at most 5 seconds."""
    if hub.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(hub.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # an answer, though not a page
    except OSError:
        return False
    return True


def processor_of(source: Source, task: str, image_size: int | None = None) -> Any:
    """The tokenizer, or for images the image processor, giving squares of `image_size` pixels."""
    if TASKS.get(task).reads == "images":
        processor = AutoImageProcessor.from_pretrained(source.path, **source.options)
        if image_size is None:
            return processor
        sizes = processor_sizes(processor.to_dict(), image_size)
        return AutoImageProcessor.from_pretrained(source.path, **source.options, **sizes)
    return AutoTokenizer.from_pretrained(source.path, **source.options)


@contextlib.contextmanager
def explained(source: Source) -> Iterator[None]:
    """Turn what Transformers, safetensors and the hub raise into one ModelError with a remedy."""
    try:
        yield
    except DeltatuneError:  # says it already
        raise
    except Exception as error:  # damaged files make the readers raise nearly anything
        what, remedy = _diagnosis(source, error)
        raise ModelError(what, field="model", remedy=remedy) from error


def _diagnosis(source: Source, error: Exception) -> tuple[str, str]:
    """Find what went wrong in the text of the error and of its causes."""
    name, text = source.name, _chain(error)
    local = Path(source.path).is_dir()
    for pattern, what, remedy in _KNOWN:
        if re.search(pattern, text, re.IGNORECASE):
            return what.format(name=name), remedy
    if not local and isinstance(error, OSError):
        return (
            f"'{name}' is neither a local folder nor found on the Hugging Face hub.",
            "Check the spelling (owner/name), the revision, and that the hub can be reached.",
        )
    first = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
    return (
        f"'{name}' cannot be loaded: {first}.",
        "Check that the folder holds a complete Transformers model.",
    )


def _chain(error: BaseException | None) -> str:
    parts = []
    while error is not None:
        parts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


# (pattern in the error's text, what is wrong, remedy), the most telling first.
_KNOWN = [
    (
        r"SafetensorError|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeader",
        "the weights of '{name}' are damaged: a .safetensors file is cut off or not one.",
        "Download or copy the model again.",
    ),
    (
        r"GatedRepoError|gated repo",
        "'{name}' is gated: its owner gives access on request.",
        "Ask for access on the model's page, then log in with: hf auth login",
    ),
    (
        r"trust_remote_code",
        "'{name}' needs Python code of its own, which is run only if you say so.",
        "Read that code, then set model: {name: ..., trust_remote_code: true}.",
    ),
    (
        r"does not recognize this architecture|Unrecognized model|Should have a `model_type`",
        "'{name}' is of an architecture that the installed Transformers does not know, or config.json has no "
        "model_type.",
        "Update Transformers or take another model.",
    ),
    (
        r"not a valid JSON|JSONDecodeError",
        "a .json file of '{name}' is not valid JSON.",
        "Download or copy the model again.",
    ),
    (
        r"does not support an attention implementation|attn_implementation|Flash ?Attention",
        "'{name}' cannot use the attention implementation that was asked for.",
        "Set model.attention to eager or sdpa.",
    ),
    (
        r"requires the Torchvision library",
        "the image processor of '{name}' needs torchvision with this version of Transformers.",
        "Install torchvision beside your torch, or Transformers 5.23, which works without it.",
    ),
    (
        r"no file named model\.safetensors|use_safetensors|does not appear to have a file named "
        r"\S*(model\.safetensors|pytorch_model)",
        "'{name}' has no weights in the safetensors format; pickled weights are not read.",
        "Take a revision with model.safetensors, or convert it: model.save_pretrained(folder).",
    ),
    (
        r"LocalEntryNotFound|couldn't connect|ConnectError|ConnectionError|offline|Timeout",
        "'{name}' is not a local folder, was not downloaded before, and the Hugging Face hub cannot be "
        "reached.",
        "Check the spelling and the network, give a local folder, or take bundled:t5-small, "
        "bundled:smollm2-135m, bundled:minilm or bundled:dinov2-small.",
    ),
]
