"""The fields of a recipe, and what they say of each of its entries."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, Strict, model_validator

from deltatune.errors import RecipeError, nearest
from deltatune.recipe.axes import SECTIONS
from deltatune.recipe.base_sections import ModelSpec, QuantizationSpec
from deltatune.recipe.choosing import HalvingSpec, SearchSpec, Together, TuneSpec
from deltatune.recipe.curve_section import CurveSpec
from deltatune.recipe.entry import MethodEntry
from deltatune.recipe.kinds import Bool, Budget, Device, Duration, Int
from deltatune.recipe.section import Section
from deltatune.recipe.sections import DataSpec, EvaluationSpec
from deltatune.recipe.splits import MOST_SPLITS, Splits, in_split
from deltatune.recipe.task_name import TaskName
from deltatune.recipe.train_section import TrainSpec


class RecipeFields(Section):
    """What a recipe says, each field right by itself; in a `Recipe` they fit each other, too."""

    later = ("worth", "curve", "splits")

    task: TaskName
    """What the model is to do."""
    model: ModelSpec
    """The base: a name, or `{name, revision, trust_remote_code, attention}`. A list of bases compares every
    entry on each; an entry may have its own."""
    data: DataSpec
    """The rows, and how they become inputs and targets. A list of such sections, each with a `name` if its
    source does not tell, compares on every one of these data sets."""
    methods: list[MethodEntry] = Field(min_length=1)
    """What is compared: each a method's name, or `{METHOD: {settings}, name: LABEL, train: {changes}}`;
    `data` and `evaluation` hold changes of the template, the limits of tokens and the decoding, and `from` a
    saved delta to start from."""
    train: TrainSpec = TrainSpec()
    """Training settings of every entry."""
    quantization: QuantizationSpec | None = None
    """How the frozen base is kept in few bits (QLoRA): `nf4`, or `{format, double, compute}`. An entry may
    have its own."""
    budget: Budget | None = None
    """Trained parameters of every entry, a count or a share of the base's such as `0.5%`: each method's size
    (r, n_tokens, ...) is chosen to come nearest. The head of a classifier, which all train alike, does not
    count. An entry may have its own, or opt out with `budget: null`; one that sets its size as well is
    refused. LoRA and AdaLoRA keep alpha in its ratio to the default rank."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """What is measured, and how."""
    worth: Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)] | None = None
    """The smallest difference of the primary metric that matters, in its unit in result.json: 0.01 is a point
    of accuracy. Entries shown to differ by less are called equivalent; a tie that is neither is not known
    yet. It may be changed afterwards: nothing is trained again."""
    baselines: Bool = True
    """Whether a comparison of classifiers has rows for `majority` (the largest class, always) and `head` (the
    head alone, on a base that stays as it is) beside its entries."""
    seeds: list[Annotated[Int, Field(ge=0, lt=2**32)]] = Field(default=[0], min_length=1)
    """Every entry is trained once with each seed. Three or more show the noise of training too."""
    splits: Splits | None = None
    """How many times validation and test rows are drawn anew from the rows of `data.split`: each seed gets a
    split of its own, which all entries share, so there are as many seeds (by default 0, 1, ...). Intervals
    then hold the luck of the split as well. Null: one split for all seeds."""
    tune: TuneSpec | None = None
    """The same number of learning rates for every entry, such as `{lr: 4}`; the best on validation counts."""
    search: SearchSpec | None = None
    """A search for settings: `{trials: 40, space: {train.lr: {from: 1e-4, to: 1e-2, scale: log}}}`."""
    halving: HalvingSpec | None = None
    """Stop configurations early that are behind on the validation rows: `auto`, or such as `{factor: 3}`."""
    budget_time: Duration | None = None
    """About how long a comparison with `halving: auto` may take, such as `20m`: it stops no more than that
    needs, and says what there is no time to begin with. Processes that join are not reckoned with, so it ends
    sooner by them. Curves come after it. Of several data sets each has so much time."""
    curve: CurveSpec | None = None
    """What more rows, or a higher rank, would gain: `{rows: [50, 200, 800, all]}`, `{rank: [2, 4, 8, 16]}`.
    It takes further runs, and may be asked for when a comparison is done: nothing is trained again."""
    together: Together = 1
    """How many runs of a comparison may be trained at once over one base, in one process: it pays where a
    batch is small. Each has the result that it has alone, to rounding; its training time is its share, and
    its peak memory is not known. `auto`: as many as pay and fit, and one where that is not known."""
    device: Device = "auto"
    """Where the runs are: `cpu`, `cuda`, `cuda:1`, `xpu` (Intel's GPUs) or `mps` (Apple's). `auto`: the first
    GPU that there is, else the CPU. It is no part of what is compared: a run may go on elsewhere."""

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys of a recipe file; grids are expanded before a recipe is validated."""
        return [*cls.model_fields, "grid", "sample"]

    @model_validator(mode="before")
    @classmethod
    def _seed_of_each_split(cls, value: Any) -> Any:
        """As many seeds as splits, where none are given."""
        splits = value.get("splits") if isinstance(value, dict) else None
        if type(splits) is not int or not 1 < splits <= MOST_SPLITS or "seeds" in value:
            return value
        return {**value, "seeds": list(range(splits))}

    @model_validator(mode="before")
    @classmethod
    def _spread_sections(cls, value: Any) -> Any:
        """Give every method entry the sections that hold for it."""
        if not isinstance(value, dict) or not isinstance(value.get("methods"), list):
            return value
        entries = [{entry: None} if isinstance(entry, str) else entry for entry in value["methods"]]
        for section, kind in SECTIONS.items():
            shared = _fields(value.get(section), kind)
            entries = [_with_section(entry, section, shared) for entry in entries]
        for field in ("quantization", "budget"):
            entries = [_with_shared(entry, field, value.get(field)) for entry in entries]
        return {**value, "methods": entries}

    @property
    def has_targets(self) -> bool:
        """Whether rows have something to produce; plain language modelling has none."""
        return self.data.columns.target is not None

    def model_of(self, entry: MethodEntry) -> ModelSpec:
        """The base that an entry is trained on."""
        return entry.model or self.model

    def data_of(self, entry: MethodEntry) -> DataSpec:
        """The data section that holds for an entry: the recipe's, read in the entry's way."""
        return self.data.model_copy(update=dict(entry.data or {}))

    def split_of(self, seed: int) -> int:
        """The number of the split that runs of a seed have; 0, the recipe's own, for other seeds."""
        return self.seeds.index(seed) if self.splits and seed in self.seeds else 0

    def evaluation_of(self, entry: MethodEntry) -> EvaluationSpec:
        """The evaluation section that holds for an entry: the recipe's, with the entry's way to generate."""
        return self.evaluation.model_copy(update=dict(entry.evaluation or {}))

    def alone(self, entry: MethodEntry, seed: int) -> Self:
        """The recipe of one run: of the entry alone, with its own sections as the recipe's, in its split."""
        data = in_split(self.data_of(entry), self.split_of(seed))
        sections = {"model": self.model_of(entry), "data": data}
        sections |= {"evaluation": self.evaluation_of(entry)}
        bare = entry.model_copy(update=dict.fromkeys(["space", *sections]))
        none = dict.fromkeys(["tune", "halving", "budget_time", "search", "worth", "curve", "splits"])
        choosing = none | {"together": 1, "baselines": True}
        return self.model_copy(update={"methods": [bare], "seeds": [seed], **sections, **choosing})

    @property
    def models(self) -> list[ModelSpec]:
        """The different bases of the entries, in their order."""
        found: list[ModelSpec] = []
        for entry in self.methods:
            if self.model_of(entry) not in found:
                found.append(self.model_of(entry))
        return found

    def by_model(self) -> list[MethodEntry]:
        """The entries, those on the same base together, so that each base need be loaded once."""
        models = self.models
        return sorted(self.methods, key=lambda entry: models.index(self.model_of(entry)))

    def chosen(self, name: str | None, *, field: str) -> MethodEntry:
        """Return the entry with this label, or the only one if there is no label.

        Raises:
            RecipeError: There is no such entry, or several and no label; `field` is where it is to be named.
        """
        if name is not None:
            return self.entry(name)
        if len(self.methods) == 1:
            return self.methods[0]
        raise RecipeError(
            f"the recipe has {len(self.methods)} methods and train runs one.",
            field=field,
            remedy=f"Name one of: {', '.join(entry.name for entry in self.methods)}. "
            "Or run them all with `deltatune compare`.",
        )

    def entry(self, name: str) -> MethodEntry:
        """Return the method entry with this label.

        Raises:
            RecipeError: There is none.
        """
        for entry in self.methods:
            if entry.name == name:
                return entry
        raise RecipeError(
            f"{name!r} is not the label of an entry.",
            field="methods",
            remedy=nearest(name, [entry.name for entry in self.methods]),
        )

    def dump(self) -> dict[str, Any]:
        """Write out every setting, defaults included, in the form of a recipe file.

        `parse_recipe(recipe.dump()) == recipe`. An entry's `train`, `data` and `evaluation` hold what differs
        from the recipe's.
        """
        content = self.model_dump(mode="json")
        content["methods"] = [self._dump_entry(entry) for entry in self.methods]
        # As of recipes that were written down before there was a choice.
        if self.budget_time is None:
            del content["budget_time"]
        if self.together == 1:
            del content["together"]
        if self.device == "auto":
            del content["device"]
        if self.baselines:
            del content["baselines"]
        return content

    def _dump_entry(self, entry: MethodEntry) -> dict[str, Any]:
        content: dict[str, Any] = {entry.method: entry.config, "name": entry.name}
        content |= {key: value for key in ("group", "space") if (value := getattr(entry, key))}
        if entry.start is not None:
            content["from"] = entry.start
        if entry.model is not None:
            content["model"] = entry.model.model_dump(mode="json")
        for section, kind in SECTIONS.items():
            own: Section | None = getattr(entry, section)
            base = getattr(self, section).model_dump(mode="json")
            given = {} if own is None else own.model_dump(mode="json")
            fields = () if own is None else kind.model_fields
            changes = {key: given.get(key) for key in fields if given.get(key) != base.get(key)}
            if changes or (own is not None and section != "train"):  # given, be it the same as the recipe's
                content[section] = changes
        if entry.quantization != self.quantization:
            content["quantization"] = entry.quantization and entry.quantization.model_dump(mode="json")
        if entry.budget != self.budget:
            content["budget"] = entry.budget
        return content


def _with_shared(entry: Any, field: str, shared: Any) -> Any:
    """Give an entry the recipe's own `field`, unless it names another or, with null, none."""
    if not isinstance(entry, dict) or field in entry or shared is None:
        return entry
    return {**entry, field: shared}


def _fields(section: Any, kind: type[Section]) -> dict[str, Any]:
    """What is given of a section, of the fields that an entry may have."""
    given = dict(section) if isinstance(section, Section) else section
    if not isinstance(given, dict):
        return {}
    return {key: value for key, value in given.items() if key in kind.model_fields}


def _with_section(entry: Any, section: str, shared: dict[str, Any]) -> Any:
    """Complete an entry's section by the recipe's; of `data` and `evaluation` there is none unless given."""
    own = entry.get(section) if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or (own is None and section != "train") or not isinstance(own or {}, dict):
        return entry
    return {**entry, section: {**shared, **(own or {})}}
