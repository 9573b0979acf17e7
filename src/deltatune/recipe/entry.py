"""An entry of a recipe: one contestant, in each of the forms that a recipe may write it in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from deltatune.errors import RecipeError
from deltatune.recipe.axes import slug
from deltatune.recipe.base_sections import ModelSpec, QuantizationSpec
from deltatune.recipe.choosing import Space
from deltatune.recipe.kinds import Budget, Text
from deltatune.recipe.section import Section
from deltatune.recipe.sections import Decoding, Reading
from deltatune.recipe.train_section import TrainSpec

if TYPE_CHECKING:
    from deltatune.core.method import MethodConfig

ENTRY_KEYS = (
    "name", "model", "train", "data", "evaluation", "quantization", "budget", "group", "space", "from",
)  # fmt: skip
"""Keys of a method entry besides the method's own name."""


class MethodEntry(Section):
    """One contestant: a method, its settings, and its ways to train, to read rows and to decode.

    A recipe writes it as `lora`, or as `{lora: {r: 8}, name: lora r8, train: {lr: 1e-3}}`.
    """

    name: Text
    """The label in tables and folders. Default: the method's name."""
    method: Text
    """A name in `deltatune.methods.METHODS`."""
    config: dict[str, Any] = Field(default={})
    """The method's settings, validated by its config class and completed with its defaults; beside `from`
    those alone that are given."""
    start: Text | None = Field(default=None, alias="from")
    """A saved delta that training starts from: the folder of a run, its adapter/, or a folder that peft
    wrote. It brings the settings; those that are given must be its own."""
    model: ModelSpec | None = None
    """This entry's own base. Default: the recipe's. A list makes one entry for each."""
    train: TrainSpec = TrainSpec()
    """The recipe's `train` section with this entry's changes."""
    data: Reading | None = None
    """How this entry reads a row, where that differs from the recipe's `data`: the template, the limits."""
    evaluation: Decoding | None = None
    """How text is generated for this entry, where that differs from the recipe's `evaluation`."""
    quantization: QuantizationSpec | None = None
    """How this entry's base is kept in few bits. Default: as the recipe says; null: it is not."""
    budget: Budget | None = None
    """This entry's number of trained parameters. Default: as the recipe says; null: the settings decide."""
    group: Text | None = None
    """The label of the entry from whose grid this one was made; null for an entry of its own."""
    space: Space | None = None
    """What `search` may vary for this entry: settings, train.X, data.X or evaluation.X, as lists or ranges
    `{from, to, scale}`."""

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys of an entry as a recipe writes it."""
        from deltatune.methods import METHODS

        return [*METHODS.names(), *ENTRY_KEYS, "grid"]

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return slug(self.name)

    def build_config(self) -> MethodConfig:
        """Make the method's config object. With a budget its size is the default, to be chosen for a base.

        Of an entry that starts from a saved delta, settings that are not given are the defaults, not the
        delta's: `deltatune.training.given.start.settings_of` reads those.
        """
        return _method(self.method)(**self.config)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """Bring the forms of a recipe to that of the class, and the settings to their complete form."""
        value = _from_yaml(value)
        if not isinstance(value, dict) or not isinstance(value.get("method"), str):
            return value
        config = value.get("config") or {}
        if not isinstance(config, dict):
            return value
        try:
            complete = _method(value["method"]).model_validate(config)
        except RecipeError as error:
            raise PydanticCustomError("unknown_method", "{text}", {"text": str(error)}) from error
        except ValidationError as error:
            details = {"method": value["method"], "errors": error.errors(include_url=False)}
            raise PydanticCustomError("method_config", "settings of {method}", details) from error
        settings = complete.model_dump(mode="json")
        if value.get("budget") is not None:
            settings = _without_size(complete, settings, config, value["budget"])
        if value.get("from") is not None:  # the delta brings the others
            settings = {key: setting for key, setting in settings.items() if key in config}
        return {**value, "config": settings}


def _method(name: str) -> type[MethodConfig]:
    from deltatune.methods import METHODS  # imported here: recipe/ knows methods by name only

    return METHODS.get(name)


def _from_yaml(value: Any) -> Any:
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or "method" in value:
        return value
    names = [key for key in value if key not in ENTRY_KEYS]
    if len(names) != 1:
        found = f"has {', '.join(map(repr, names))}" if names else "names none"
        raise PydanticCustomError(
            "entry", "{text}", {"text": f"an entry names one method; this one {found}."}
        )
    method = str(names[0])
    entry = {"name": method, "method": method, "config": value[names[0]] or {}}
    return entry | {key: value[key] for key in ENTRY_KEYS if value.get(key) is not None}


def _without_size(
    method: MethodConfig, settings: dict[str, Any], given: dict[str, Any], budget: Any
) -> dict[str, Any]:
    """Leave out what a budget decides.

    Raises:
        PydanticCustomError: It is given as well.
    """
    decided = [method.size, *method.follow_size] if method.size else []
    if both := [f"{key} ({given[key]})" for key in decided if key in given]:
        text = (
            f"sets {', '.join(both)} beside the budget of {budget}, which chooses it: leave it out, or give "
            "the entry `budget: null`."
        )
        raise PydanticCustomError("entry", "{text}", {"text": text})
    return {key: value for key, value in settings.items() if key not in decided}
