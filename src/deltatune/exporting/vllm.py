"""The target `vllm`: a LoRA that vLLM and SGLang serve, by their documented rules (`rules.py`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from deltatune.errors import AdapterError, TrainingError
from deltatune.exporting.lora import planned, write_lora
from deltatune.exporting.low_rank import LowRank, attach, low_rank
from deltatune.exporting.rules import (
    EMBEDDINGS,
    MAX_LORA_RANKS,
    SOURCES,
    WITH_LORA,
    WITHOUT_LORA,
    broken_rules,
    serving_rank,
)
from deltatune.exporting.target import Job, Target, write_result
from deltatune.results import Exported, LeftOut
from deltatune.runs.loaded import NAME, LoadedRun

MERGE = "`--as merged` writes a plain model, and `--as lora` a LoRA for peft."


class Vllm:
    """Plain LoRA of one rank, without anything that the two do not read."""

    title = "A LoRA that vLLM and SGLang serve: one rank, no biases, nothing saved whole."
    options = frozenset({"rank", "keep", "rows"})

    def export(self, job: Job) -> Exported:
        """Decompose, fill up to one rank, write, check by the rules, and measure."""
        loaded = job.load()
        notes = _require_served(loaded)
        made = _layers_alone(low_rank(loaded.model, loaded.method, job.settings, job.observer), loaded.method)
        rank = _rank(made)
        extra = {"max_lora_rank": rank, "rules": SOURCES}
        if job.dry_run:
            done = planned(job, "vllm", loaded, made)
            return done.model_copy(update={"notes": [*done.notes, *notes], "details": extra})
        with job.folder() as folder:
            attach(loaded.model, made, one_rank=rank)
            done = write_lora(job, "vllm", loaded, made, folder)
            notes = [*done.notes, *notes, *_by_the_rules(folder)]
            done = done.model_copy(update={"notes": notes, "details": extra})
            write_result(folder, done)
        return done


TARGET: Target = Vllm()


def _require_served(loaded: LoadedRun) -> list[str]:
    """Refuse a base that vLLM has no LoRA for; notes on one that its table does not have.

    Raises:
        AdapterError: It is none of those, or the run trained a head.
    """
    view, kind = loaded.model.view, type(loaded.model.base).__name__
    if not view.is_decoder_only or kind in WITHOUT_LORA:
        raise AdapterError(
            f"vLLM's table of models has {kind} without LoRA, or not at all.",
            field="--as",
            remedy=MERGE,
        )
    heads = loaded.model.adapter(NAME).heads()
    if heads or view.heads:
        raise AdapterError(
            f"the run trained {(heads or view.heads)[0]} whole, and vLLM reads no modules_to_save.",
            field="--as",
            remedy=MERGE,
        )
    if kind in WITH_LORA:
        return []
    return [f"vLLM's table of models does not list {kind}; whether it has LoRA for it is not known here."]


def _layers_alone(made: LowRank, method: str) -> LowRank:
    """Without what the two do not read: modules saved whole, biases and other tables than of tokens.

    Raises:
        AdapterError: Nothing remains.
    """
    changes = made.changes
    tables = [
        site.path
        for site in made.sites
        if isinstance(changes.model.view.modules[site.path], nn.Embedding)
        and site.path.rpartition(".")[2] not in EMBEDDINGS
    ]
    lost = {path: site.energy for site in made.sites if (path := site.path) in tables}
    lost |= {path: changes.whole_energy(path) for path in changes.whole}
    lost |= {f"{path}.bias": float(bias.square().sum()) for path, bias in changes.biases.items()}
    why = "vLLM and SGLang read updates of linear layers and token embeddings alone."
    left_out = [LeftOut(parameter=path, energy=energy, why=why) for path, energy in lost.items()]
    factors = {path: pair for path, pair in made.factors.items() if path not in tables}
    if not factors:
        raise AdapterError(
            f"all that {method} changes are biases, norms or tables. {why}", field="--as", remedy=MERGE
        )
    kept = replace(changes, whole=[], biases={}, left_out=[*changes.left_out, *left_out])
    sites = [site for site in made.sites if site.path not in tables]
    return LowRank(kept, sites, factors, made.exact and not left_out)


def _rank(made: LowRank) -> int:
    """The one rank of all layers: the least that vLLM can be started for.

    Raises:
        AdapterError: There is none.
    """
    rank = serving_rank(made.rank)
    if rank is None:
        raise AdapterError(
            f"a layer has rank {made.rank}, and vLLM's --max-lora-rank ends at {MAX_LORA_RANKS[-1]}.",
            field="--rank",
            remedy=f"Give --rank {MAX_LORA_RANKS[-1]} or less.",
        )
    return rank


def _by_the_rules(folder: Path) -> list[str]:
    """What the rules say of the folder.

    Raises:
        TrainingError: It breaks one of vLLM's.
    """
    notes = ["It was checked by the documented rules of vLLM and SGLang; neither program was loaded."]
    for rule, what in broken_rules(folder):
        if rule.who != "SGLang":
            raise TrainingError(
                f"the folder breaks a rule of {rule.who}: {rule.asks} ({what}).", remedy="Please report it."
            )
        notes.append(f"SGLang may refuse it: {rule.asks} ({what})")
    return notes
