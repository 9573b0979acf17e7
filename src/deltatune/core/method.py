"""What a method is: a validated configuration that builds an adapter for a base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic._internal._model_construction import ModelMetaclass
from torch import Tensor

from deltatune.recipe.messages import settings_error

if TYPE_CHECKING:
    from deltatune.core.adapter import Adapter
    from deltatune.core.sites import BaseView


class _Explained(ModelMetaclass):
    """Calling the class raises our error of a wrong setting; `model_validate`, for recipes, pydantic's."""

    def __call__(cls, *arguments: Any, **settings: Any) -> Any:
        try:
            return super().__call__(*arguments, **settings)
        except ValidationError as error:
            raise settings_error(error, cast(type[BaseModel], cls)) from error


class MethodConfig(BaseModel, metaclass=_Explained):
    """Settings of a method, and how they become an adapter.

    A method is one subclass in one file. Its fields are the method's hyper-parameters; their docstrings are
    shown by the command line and the JSON Schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: ClassVar[str]
    """The name in recipes."""
    title: ClassVar[str]
    """The idea: one line that says what is trained."""
    formula: ClassVar[str]
    """What is computed, in one line."""
    when: ClassVar[str]
    """When to take it and when not, in one or two sentences."""
    cost: ClassVar[str]
    """Trained parameters by formula, and what it costs in training and afterwards."""
    defaults: ClassVar[str]
    """Why the default settings and learning rate are what they are, and where they come from."""
    paper: ClassVar[str]
    """Authors, year, title."""
    default_lr: ClassVar[float]
    """The learning rate (AdamW) that a recipe without one gets, in long runs."""
    short_runs: ClassVar[float] = 1.0
    """How many times that it is at most in short runs (`deltatune.recipe.rates`)."""
    rate: ClassVar[str] = "lr"
    """The field of `train` that it learns at; `head_lr` of a method that trains a head and nothing else."""
    peft_type: ClassVar[str | None] = None
    """peft's name of the method, where peft has it and can read our files."""
    learns_keys: ClassVar[bool] = False
    """Whether it learns keys and values, which stand before the input's in attention."""
    trains: ClassVar[bool] = True
    """Whether there is anything to train."""
    holds_rows: ClassVar[bool] = False
    """Whether what is saved holds training rows, or what they can be told from: it is shared as they are."""
    shows_rows: ClassVar[bool] = False
    """Whether it shows training rows with their targets before a text."""
    answers_texts: ClassVar[bool] = False
    """Whether it answers itself where answers are texts, so that no model is asked and there is no loss."""
    size: ClassVar[str | None] = None
    """The setting that a budget of trained parameters is met with, if there is one: `r`, `n_tokens`."""
    selectors: ClassVar[tuple[str, ...]] = ("targets",)
    """Settings, where the method has them, that name modules to act on; each name must reach one."""
    follow_size: ClassVar[tuple[str, ...]] = ()
    """Settings that `with_size` decides along with the size; beside a budget a recipe has neither."""

    def with_size(self, size: int) -> Self:
        """The same method with another size; a method whose other settings depend on it overrides this.

        Raises:
            ValidationError: The method allows no such size.
        """
        return self.changed({str(self.size): size})

    def changed(self, settings: Mapping[str, Any]) -> Self:
        """The same method with other settings, validated.

        Raises:
            ValidationError: A setting breaks a rule.
        """
        return type(self).model_validate(self.model_dump() | dict(settings))

    def build(self, view: BaseView) -> Adapter:
        """Build the adapter for a base.

        Raises:
            TargetError: The base lacks what the method acts on.
        """
        raise NotImplementedError

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """Give (fields of adapter_config.json, tensors by peft's keys), or None if peft cannot hold it."""
        return None

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """Whether peft's adapter_config.json describes this method; several methods may share a type."""
        return cls.peft_type is not None and config.get("peft_type") == cls.peft_type

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Read peft's adapter_config.json.

        Raises:
            AdapterError: It uses an option that we do not have.
        """
        raise NotImplementedError

    def from_peft_tensors(self, tensors: Mapping[str, Tensor], view: BaseView) -> dict[str, Tensor]:
        """Translate peft's keys (without their `base_model.model.`) into those of `Adapter.stored`."""
        return dict(tensors)

    def lost_when_saved(self) -> str | None:
        """Why a saved delta with these settings cannot be trained on, as a sentence; None if it can be.

        It is asked of the settings that were trained with, where they are known, and of those that were
        saved.
        """
        return None

    def for_inference(self, adapter: Adapter) -> MethodConfig:
        """The configuration that is saved with this trained adapter: without what only training needs.

        It may be another method's, if that is what the result is: LoRA with a special start is LoRA.
        """
        return self
