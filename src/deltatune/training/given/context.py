"""What several runs share: the data, read once, and the base, loaded once for each precision.

Each model has its own tokenizer, and an entry may read the rows in a way of its own (readings.py), so rows
are encoded anew for each. Of one model at a time anything is kept: another's weights would count as memory of
a run.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from deltatune import quant
from deltatune.core.attention import EAGER_UP_TO
from deltatune.core.devices import HOST, computes_bfloat16, device_of, name_of, on_gpu
from deltatune.core.method import MethodConfig
from deltatune.core.model import AdaptedModel
from deltatune.core.offload import place_of_rest
from deltatune.data.dataset import Dataset
from deltatune.data.encode import Encoder
from deltatune.data.general import GeneralText, read_general
from deltatune.data.load import load_data
from deltatune.data.subsets import narrowed
from deltatune.errors import ChangedError
from deltatune.evaluation.harness import Scored, metrics_of, require_harness
from deltatune.evaluation.loss import RowLoss
from deltatune.evaluation.task_files import TaskFile, read_task_files
from deltatune.models.fingerprint import checksum, fingerprint_beside
from deltatune.models.load import LoadedBase, load_base
from deltatune.models.original import OriginalWeights
from deltatune.observer import Observer, Silent
from deltatune.quant.stored import stored_settings
from deltatune.recipe.base_sections import ModelSpec
from deltatune.recipe.schema import MethodEntry, Recipe
from deltatune.recipe.sections import DataSpec, SubsetSpec
from deltatune.results import BaseUsed, CertificateLine, DataUsed, Origin, RunResult
from deltatune.timeline import phase
from deltatune.training.given.beside import require_metric
from deltatune.training.given.budget import Budget, sized_for
from deltatune.training.given.gpu_ways import require_gpu_ways
from deltatune.training.given.precision import Choice, automatic, by_instructions
from deltatune.training.given.readings import RunData, read_data, require_part, whose
from deltatune.training.given.start import read_start, settings_of

NO_GPU = (
    "train.offload: cpu has no effect here: no GPU computes, so the base is in this memory anyway. "
    "`disk` takes less of it."
)


@dataclass
class SharedBase:
    """A base on its device, and what identifies it."""

    spec: ModelSpec
    loaded: LoadedBase
    dtype: str
    """Of its weights that are not quantized."""
    digest: Future[str]
    device: torch.device
    original: OriginalWeights | None = None
    """Of a quantized base: its weights before."""
    checksum: str = ""
    """Of its weights as they were loaded, by which a run tells that they are what they were."""
    proved: dict[Hashable, CertificateLine] = field(default_factory=dict)
    """What was proved of the base by itself, for runs to come: by what it depends on."""
    answered: dict[Hashable, Any] = field(default_factory=dict)
    """What evaluations of methods that train nothing gave, for seeds to come: by what they depend on."""

    @property
    @phase("hash base")
    def fingerprint(self) -> str:
        """Hash of the weights as they were loaded; waits for it if need be."""
        return self.digest.result()

    def adapted(self, *, base_dropout: bool = False) -> AdaptedModel:
        """A new view of the base, without adapters. Before its hash is known, nothing gets at the base."""
        _ = self.fingerprint
        base = self.loaded
        return AdaptedModel(
            base.model,
            base.new_modules,
            processor=base.processor,
            original=self.original,
            base_dropout=base_dropout,
            eager_up_to=eager_up_to(self.spec, self.device),
            pooling=base.pooling,
        )


@dataclass
class _OnModel:
    """What runs on one model share."""

    spec: ModelSpec
    bases: dict[str, SharedBase] = field(default_factory=dict)
    """By precision."""
    data: dict[DataSpec, RunData] = field(default_factory=dict)
    """By the way in which the rows are read."""


@dataclass
class Context:
    """Data and bases of one recipe."""

    recipe: Recipe
    observer: Observer
    datasets: dict[str, Dataset]
    """The rows by template: the same ones in the same order, with other words around their inputs."""
    joined: bool = False
    """Whether other processes may be at the same comparison, on this machine or others."""
    _shared: list[_OnModel] = field(default_factory=list)
    """Of one model; contexts of the same runs share the list."""
    _warned: set[str] = field(default_factory=set)
    _noted: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What runs rest on -> its digest and the run that noted it."""
    _tasks: dict[str, list[str]] | None = None
    """Metrics of the harness's tasks; None: not read yet."""
    task_files: list[TaskFile] = field(default_factory=list)
    """The tasks that `tasks` has read."""
    base_on_tasks: dict[str, dict[str, Scored]] = field(default_factory=dict)
    """What bases alone score on them, by the hash of the weights."""
    general: GeneralText | None = None
    """Documents on which forgetting is measured; None: it is not asked for."""
    base_on_general: dict[tuple[str, int], list[RowLoss]] = field(default_factory=dict)
    """Losses of bases alone on them, by the hash of the weights and the tokens that are read of each."""
    _begun_in: dict[tuple[str, str | None], str] = field(default_factory=dict)
    """By base: the dtype that `precision: auto` meant when runs were begun, maybe on another machine."""
    of_splits: dict[int, Context] = field(default_factory=dict)
    """By number, of a recipe with several splits: the same with the rows of each (split_contexts.py)."""
    is_part: bool = False
    """Whether it has a part of another's rows, of which all is said already."""

    @classmethod
    @phase("read data")
    def open(cls, recipe: Recipe, observer: Observer) -> Context:
        """Read the recipe's data, with every template. The base is loaded when it is first needed.

        Raises:
            DataError: The data cannot be read or used, or there are no test rows: every run ends with them.
            RecipeError, AdapterError: An entry cannot start from the delta that it names, asks for kernels or
                an attention that it cannot have here, or has no loss, and is to be ranked by it.
        """
        for entry in recipe.methods:
            read_start(entry)
            require_metric(recipe, entry, answers=entry.build_config().answers_texts)
            require_gpu_ways(recipe, entry, base_dtype(entry.train.precision, device_of(recipe.device)))
        observer.stage("Reading the data")
        general = recipe.evaluation.general
        text = None if general is None else read_general(general)
        context = cls(recipe, observer, read_data(recipe), general=text)
        require_part(context.dataset, "test")
        for dataset in context.datasets.values():
            for warning in dataset.warnings:
                context.warn(warning)
        return context

    @property
    def dataset(self) -> Dataset:
        """What all templates have in common: parts, ids, targets, labels; inputs are by one of them."""
        return next(iter(self.datasets.values()))

    def tasks(self) -> dict[str, list[str]]:
        """The metrics of the harness's tasks that are scored at the end of a run, by name; all is tried now.

        Raises:
            DataError: A task file cannot be used.
            DeltatuneError: The harness is not installed.
        """
        if self._tasks is None:
            names = self.recipe.evaluation.tasks or []
            if names:
                self.observer.stage("Reading the tasks of the harness")
                require_harness()
            self.task_files = read_task_files(names)
            self._tasks = metrics_of(self.task_files) if names else {}
        return self._tasks

    def narrowed(self, subset: SubsetSpec) -> Context:
        """The same on a part of the training rows; bases, and what is noted of runs, are shared.

        Raises:
            DataError: These rows cannot be used.
        """
        limit = self.recipe.data.limit.model_copy(update={"subset": subset})
        data = self.recipe.data.model_copy(update={"limit": limit})
        of = {template: narrowed(rows, subset, self.recipe.task) for template, rows in self.datasets.items()}
        recipe = self.recipe.model_copy(update={"data": data})
        return replace(self, recipe=recipe, datasets=of, is_part=True)

    @property
    def device(self) -> torch.device:
        """Where the recipe wants its runs."""
        return device_of(self.recipe.device)

    def automatic(self, spec: ModelSpec) -> Choice:
        """What `precision: auto` means for a base: what it meant for runs before, if the device can do it."""
        begun, found = self._begun_in.get((spec.name, spec.revision)), automatic(self.device)
        if begun in (None, found.dtype) or (begun == "bfloat16" and not computes_bfloat16(self.device)):
            return found  # with the reason that a run which was never interrupted would have
        return Choice(begun, "what was begun before is in it")

    def dtype(self, entry: MethodEntry) -> str:
        """Name of the dtype of the entry's base, unless that is quantized."""
        if entry.train.precision == "auto":
            return self.automatic(self.recipe.model_of(entry)).dtype
        return base_dtype(entry.train.precision, self.device)

    def goes_on_in(self, entry: MethodEntry, dtype: str | None) -> None:
        """Let `precision: auto` mean for the entry's base what it meant when a run on it was begun.

        Args:
            entry: The run's.
            dtype: Of its base; None if its version did not note it, which asked for instructions alone.
        """
        if entry.train.precision == "auto" and entry.quantization is None:
            spec = self.recipe.model_of(entry)
            self._begun_in.setdefault((spec.name, spec.revision), dtype or by_instructions(self.device))

    @phase("load base")
    def base(self, entry: MethodEntry) -> SharedBase:
        """The entry's base, in the precision that its training asks for. One of another model is let go.

        So is, on a GPU, one in another precision: it would take memory that the entry's runs are measured by.

        Raises:
            ModelError: It cannot be loaded.
        """
        bits, device = entry.quantization, self.device
        dtype = self.dtype(entry)
        offload, shard = place_of_rest(entry.train.offload, device), entry.train.shard
        rests = f" {offload}" if offload else " shard" if shard else ""
        key = (dtype if bits is None else bits.model_dump_json()) + rests
        spec = self.recipe.model_of(entry)
        bases = self._on(spec).bases
        if key not in bases:
            if on_gpu(device):
                bases.clear()
            self._say_precision(entry, device)
            if offload != entry.train.offload:
                self.warn(NO_GPU)
            self.observer.stage(f"Loading {spec.name}" + (f" in {bits.format}" if bits else ""))
            loaded = load_base(
                spec, self.recipe.task, self.dataset.labels, dtype=dtype, quantization=bits,
                device=HOST if shard else device, offload=offload,
            )  # fmt: skip
            for warning in loaded.warnings:
                self.warn(warning)
            digest = fingerprint_beside(loaded.model)
            if shard:
                digest.result()  # it replaces what is hashed
            loaded.place(device, shard=shard)
            original = OriginalWeights(spec, self.recipe.task, self.dataset.labels)
            computed_in = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
            stored = bool(spec.dequantize) or stored_settings(loaded.model.config) is not None
            if bits is None and computed_in != dtype and stored:
                self.warn(
                    f"{spec.name} comes quantized, and Transformers loads it in {computed_in}, not in "
                    f"{dtype}: it is trained and evaluated in {computed_in}."
                )
            elif bits is None and computed_in != dtype:
                self.warn(
                    f"Transformers cannot compute {spec.name} in {dtype}: the code of its architecture mixes "
                    f"precisions. It is trained and evaluated in {computed_in}."
                )
            bases[key] = SharedBase(
                spec, loaded, computed_in, digest, device, original if bits else None,
                checksum=checksum(loaded.model),
            )  # fmt: skip
        return bases[key]

    def _say_precision(self, entry: MethodEntry, device: torch.device) -> None:
        """Say what follows if a GPU has no instructions for bfloat16."""
        if device.type != "cuda" or computes_bfloat16(device):
            return
        bits = entry.quantization
        where = f"{name_of(device)} has no instructions for bfloat16"
        if bits is None and entry.train.precision == "auto":
            self.warn(
                f"{where}: the base is computed in float32. (In float16, which it has, T5 and others "
                "overflow, and small gradients vanish.) quantization=nf4 with compute fp32 takes less memory."
            )
        elif entry.train.precision == "bf16" or (bits is not None and bits.compute == "bf16"):
            slow = "quantization.compute" if bits is not None else "train.precision"
            self.warn(f"{where} and emulates it, slower than float32: {slow}=fp32 is faster there.")

    def _on(self, spec: ModelSpec) -> _OnModel:
        if not self._shared or self._shared[0].spec != spec:
            self._shared[:] = [_OnModel(spec)]
        return self._shared[0]

    def forget(self, base: SharedBase) -> None:
        """Load the base anew when it is next needed, since this one is no longer what it was."""
        shared = self._on(base.spec)
        shared.bases = {key: other for key, other in shared.bases.items() if other is not base}

    def note_result(self, result: RunResult) -> None:
        """Hold the runs to come to the base and the tokens of one that is finished.

        Raises:
            ChangedError: They are not those of an earlier one.
        """
        name = f"{result.name} (seed {result.seed})"
        for entry in self.recipe.methods:
            if entry.name == result.name:
                self.goes_on_in(entry, result.model.dtype)
        self.hold(name, result.model, result.data, str(result.model.fingerprint), result.origin)

    def hold(
        self, run: str, model: BaseUsed, data: DataUsed, base: str, origin: Origin | None = None
    ) -> None:
        """Note what a run rests on, or refuse it if an earlier one had another: base, tokens, delta.

        Args:
            run: Its name.
            model: The base; the weights' digest is not read from it.
            data: The rows; version 0.1 did not write of which reading the tokens are.
            base: Digest of the base's weights.
            origin: The saved delta that the run started from.

        Raises:
            ChangedError: They are not those of an earlier one.
        """
        named = [model.name, model.revision]
        noted = {json.dumps(["weights of the base", *named, model.dtype, model.quantization]): base}
        if data.reading is not None and data.tokens is not None:
            noted[json.dumps(["tokens", *named, data.reading, data.fingerprint])] = data.tokens
        if origin is not None:
            key = json.dumps(["settings and tensors at the start", origin.path])
            noted[key] = f"{origin.sha256} {origin.settings}"
        for key, digest in noted.items():
            known, by = self._noted.setdefault(key, (digest, run))
            if known != digest:
                raise ChangedError(
                    f"the {json.loads(key)[0]} of {run} have changed since {by} was trained.",
                    field="model",
                    remedy="Restore them, or start anew with --overwrite.",
                )

    def method(self, entry: MethodEntry, base: SharedBase) -> tuple[MethodConfig, Budget | None]:
        """The entry's method as it runs: with the size that its budget, if it has one, comes to on this base.

        Raises:
            RecipeError: The budget is smaller than the method can be.
        """
        config = settings_of(entry)
        if entry.budget is None:
            return config, None
        view, total = base.adapted().view, quant.parameter_count(base.loaded.model)
        config, budget = sized_for(config, view, entry.budget, total)
        if config.trains and budget.warning:
            self.warn(f"{entry.name} {budget.warning}")
        return config, budget

    def data(self, entry: MethodEntry, base: SharedBase) -> RunData:
        """The rows as the entry reads them, for the base's model: the one tokenisation path of its runs."""
        spec, shared = self.recipe.data_of(entry), self._on(base.spec).data
        if spec not in shared:
            if spec.template not in self.datasets:  # of an entry that is none of the recipe's
                primary = self.recipe.evaluation.primary
                self.datasets[spec.template] = load_data(spec, self.recipe.task, primary=primary)
            loaded = base.loaded
            dataset, named = self.datasets[spec.template], whose(self.recipe, base.spec, spec)
            encoder = Encoder(
                self.recipe.task, loaded.processor, spec, loaded.labels, loaded.facts, dataset.scale
            )
            found = RunData(dataset, encoder, named, Silent().warn if self.is_part else self.warn)
            for known, other in shared.items():
                if known.model_copy(update={"limit": spec.limit}) == spec:
                    found.share(other)
            shared[spec] = found
        return shared[spec]

    def warn(self, warning: str) -> None:
        """Warn once: a model may be loaded more than once, and rows read."""
        if warning not in self._warned:
            self._warned.add(warning)
            self.observer.warn(warning)


def eager_up_to(spec: ModelSpec, device: torch.device) -> int:
    """Tokens of a row up to which training uses eager attention: where SDPA is not asked for, and on CPUs."""
    return 0 if spec.attention is not None or on_gpu(device) else EAGER_UP_TO


def base_dtype(precision: str, device: torch.device) -> str:
    """Name of the base's dtype. `auto`: bfloat16 where the device is clearly faster in it (precision.py)."""
    if precision == "auto":
        return automatic(device).dtype
    return {"fp32": "float32", "bf16": "bfloat16"}[precision]
