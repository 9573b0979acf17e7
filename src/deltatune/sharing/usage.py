"""How a pushed delta is used: what a reader of its card copies."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from deltatune.sharing.card_text import plain
from deltatune.sharing.public import PublicRun
from deltatune.tasks import TASKS

_FOLDS = ("LORA", "IA3", "OFT", "VERA", "MISS", "SHIRA", "FOURIERFT", "HRA", "LOHA", "LOKR", "BONE", "ROAD")
"""Methods of peft that change weights."""


PLAIN = "{input}"
"""The template that puts no words around an input."""


@dataclass(frozen=True)
class Use:
    """One way."""

    title: str
    words: str
    code: str = ""
    language: str = "python"


def uses(run: PublicRun, repo: str) -> list[Use]:
    """The ways in which this delta can be used."""
    found = [_peft(run, repo)] if run.loads_in_peft else []
    if run.loads_in_peft and run.peft.get("peft_type") in _FOLDS:
        code = 'merged = model.merge_and_unload()\nmerged.save_pretrained("merged")'
        found.append(Use("Transformers", "Fold it into the base, behind the lines above:", code))
    found += [vllm] if (vllm := _vllm(run, repo)) else []
    return [*found, _deltatune(run, repo)]


def _base(run: PublicRun) -> str:
    return run.base or ("PATH/OF/THE/BASE" if run.local_base is None else f"PATH/OF/{run.base_named}")


def _peft(run: PublicRun, repo: str) -> Use:
    result, task = run.result, TASKS.get(str(run.result.task))
    reader = "AutoImageProcessor" if task.reads == "images" else "AutoTokenizer"
    outputs = len(result.data.labels or ()) if task.new_head and result.data.labels else 0
    outputs = outputs or int(task.new_head)
    more = f", num_labels={outputs}" if outputs else ""
    code = (
        f"from peft import PeftModel\nfrom transformers import {task.auto_class}, {reader}\n\n"
        f"base = {task.auto_class}.from_pretrained({_base(run)!r}{more})\n"
        f"model = PeftModel.from_pretrained(base, {repo!r})\n"
        f"{'processor' if task.reads == 'images' else 'tokenizer'} = {reader}.from_pretrained({_base(run)!r})"
    )
    return Use("peft", " ".join([*_to_know(run), "Load the base, then the delta:"]), code)


def _to_know(run: PublicRun) -> list[str]:
    """What deltatune knows of a run by its files, and whoever uses peft must know."""
    data, told = run.recipe.get("data"), []
    template = data.get("template") if isinstance(data, dict) else None
    if template not in (None, PLAIN):
        told.append(f"Inputs are written as: {plain(template)}.")
    if run.result.data.labels and not run.result.data.scale:
        told.append(f"The classes are, in this order: {_listed(run.result.data.labels)}.")
    if run.result.threshold is not None:
        told.append(f"A label is given from the probability {run.result.threshold:.3g} on.")
    if run.result.data.scale is not None:
        told.append(
            f"Outputs are in standard deviations from the mean ({plain(run.result.data.scale.told)})."
        )
    return told


def _listed(names: list[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more (`result.json` has all)" if len(names) > most else ""
    return ", ".join(plain(name) for name in names[:most]) + more


def _vllm(run: PublicRun, repo: str) -> Use | None:
    """By vLLM, which serves plain LoRA on decoders; None of others."""
    task, peft = TASKS.get(str(run.result.task)), run.peft
    plain_lora = peft.get("peft_type") == "LORA" and not peft.get("modules_to_save")
    if not task.continues or not plain_lora or peft.get("use_dora") or peft.get("bias") not in (None, "none"):
        return None
    ranks = [peft.get("r"), *(peft.get("rank_pattern") or {}).values()]
    rank = max((rank for rank in ranks if isinstance(rank, int)), default=16)
    allowed = next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), None)
    if allowed is None:
        return None
    name = repo.rpartition("/")[2]
    code = (
        f"vllm serve {shlex.quote(_base(run))} --enable-lora --max-lora-rank {allowed} "
        f"--lora-modules {name}={repo}"
    )
    return Use("vLLM", "Serve base and delta together:", code, "bash")


def _deltatune(run: PublicRun, repo: str) -> Use:
    name = repo.rpartition("/")[2]
    asked = "picture.png" if TASKS.get(str(run.result.task)).reads == "images" else "'your text'"
    code = f"pip install deltatune\nhf download {repo} --local-dir {name}\ndeltatune predict {name} {asked}"
    words = "It reads the recipe, so inputs are written as in training:"
    if run.local_base is not None and run.base is None:
        words += " first name the base's folder as the model in recipe.yaml."
    return Use("deltatune", words, code, "bash")
