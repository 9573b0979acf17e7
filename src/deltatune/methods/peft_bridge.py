r"""Any method of peft that acts on layers, run by our trainer, evaluation and comparisons.

    h = L(x) with L = peft's layer of the given type around the frozen layer

peft builds its layers in a skeleton: a copy of the base's module tree that shares the base's weights and is
never run. Each of its layers then becomes a delta at the same site. Where the layer asks the module that it
wraps for an output, it is given the site's own, as it is at that moment; a layer that computes from the
weight instead gets what other deltas have added on top of its result. So the base is not altered, and rows
can be routed, adapters stacked, switched and folded as with our own methods.

Settings, initial values and the file format are peft's. Its `nn.Dropout` is replaced by ours, whose masks do
not depend on history; other randomness in training is refused. Refused as well: prompt learning (ours reaches
further), AdaLoRA (it needs a schedule that our `adalora` drives), and what changes the base's weights.

Oracle: `get_peft_model` with the same weights gives the same logits, and files load both ways.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import torch
from pydantic import ConfigDict, Field, field_validator, model_validator
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from deltatune import quant
from deltatune.core.adapter import Adapter
from deltatune.core.delta import Dropout
from deltatune.core.method import MethodConfig
from deltatune.core.sites import LINEAR, BaseView
from deltatune.core.whole import gathered
from deltatune.errors import AdapterError, RecipeError, TargetError, nearest
from deltatune.methods.peft_layers import NAME, PeftAdapter, PeftDelta, freeze_answer, layers_of, skeleton_of

SITES = (*LINEAR, nn.Embedding, nn.Conv2d)
_OURS = ("peft_type", "target_modules")
_DECIDED = (
    *("task_type", "inference_mode", "auto_mapping", "base_model_name_or_path", "revision", "peft_version"),
    *("modules_to_save", "layer_replication", "megatron_config", "megatron_core", "runtime_config"),
)
"""Fields of peft's configurations that the program decides, or that change the base's structure."""
_ADDS_TOKENS = "it adds tokens; deltatune has prompt, prefix, p_tuning and p_tuning_v2 for that"
UNFIT = {
    "ADALORA": "its ranks follow a schedule; take deltatune's own adalora, which drives it",
    "XLORA": "it mixes adapters that are trained already",
    "POLY": "it needs the task of every row",
    "SHADOW": "it runs a second network beside the base",
    "TRAINABLE_TOKENS": "it trains rows of the embedding in place",
    "LN_TUNING": "it trains copies of norms; take deltatune's own ln_tuning",
    "IA3": "its targets are two lists; take deltatune's own ia3",
    "PVERA": "it samples from the global generator while training, so that a run could not be repeated",
    "OSF": "it rewrites the base's weights",
    "ADAPTION_PROMPT": "it gates learned tokens in the attention; take deltatune's own prefix",
    "CPT": f"{_ADDS_TOKENS}",
    "CARTRIDGE": f"{_ADDS_TOKENS}",
    "MULTITASK_PROMPT_TUNING": "it needs the task of every row",
}


# The field shall have peft's name, which elsewhere is a class variable of methods with one type.
warnings.filterwarnings("ignore", message='Field name "peft_type" in "PeftBridgeConfig" shadows')


class PeftBridgeConfig(MethodConfig):
    """A method of peft. For methods that deltatune does not have, and to compare with those it has."""

    model_config = ConfigDict(extra="allow")

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "Any method of peft that acts on layers: LoHa, LoKr, BOFT, HRA, FourierFT, ..."
    formula: ClassVar[str] = "h = L(x), L being peft's layer around the frozen one"
    when: ClassVar[str] = "For a method that deltatune does not have, or to compare with peft's own version."
    cost: ClassVar[str] = "That of the method; a layer that computes from the weight costs one product more."
    defaults: ClassVar[str] = (
        "Those of peft's configuration class, on query and value; lr 1e-3 as for lora, which many types want "
        "changed (FourierFT and VB-LoRA need more)."
    )
    paper: ClassVar[str] = "Mangrulkar et al. 2022, PEFT (github.com/huggingface/peft), and the method's own."
    default_lr: ClassVar[float] = 1e-3
    selectors: ClassVar[tuple[str, ...]] = ("target_modules",)

    peft_type: str = Field()  # type: ignore[misc]
    """peft's name of the method, such as LOHA. All other settings are those of peft's class for it."""
    target_modules: tuple[str, ...] = ("query", "value")
    """Roles, groups, ends of module paths or globs, as `targets` of other methods."""

    @field_validator("peft_type")
    @classmethod
    def _known(cls, value: str) -> str:
        types = injectable()
        kind = value.upper()
        if kind in UNFIT:
            raise ValueError(f"{kind} cannot be run here: {UNFIT[kind]}.")
        if kind not in types:
            known = _peft().PEFT_TYPE_TO_CONFIG_MAPPING
            if kind in known:
                raise ValueError(f"{kind} cannot be run here: {_ADDS_TOKENS}.")
            raise ValueError(f"peft has no type {value!r} that acts on layers. {nearest(kind, types)}")
        return kind

    @field_validator("target_modules", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _of_peft(self) -> Self:
        settings = self.settings()
        known = [f.name for f in dataclasses.fields(self._class()) if f.init and f.name not in _DECIDED]
        for key in settings:
            if key in _DECIDED:
                raise ValueError(f"{key} is decided by deltatune; leave it out.")
            if key not in known:
                raise ValueError(f"{self.peft_type} has no setting {key!r}. {nearest(key, known)}")
        if settings.get("bias", "none") != "none":
            raise ValueError("bias must be 'none': biases of the base are not altered.")
        try:
            self.in_peft(["query"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"peft refuses the settings of {self.peft_type}: {error}") from error
        return self

    def settings(self) -> dict[str, Any]:
        """The settings that are peft's."""
        return dict(self.model_extra or {})

    def _class(self) -> Any:
        return _peft().PEFT_TYPE_TO_CONFIG_MAPPING[self.peft_type]

    def in_peft(self, targets: list[str], **more: Any) -> Any:
        """Peft's own configuration object."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            settings = {**copy.deepcopy(self.settings()), **more}
            return self._class()(target_modules=targets, **settings)

    def build(self, view: BaseView) -> PeftAdapter:
        """Let peft build its layers in a skeleton of the base, and make a delta of each.

        Raises:
            TargetError: The type cannot act on a chosen module, or would alter the base.
        """
        chosen = self._in_layers(view.select(self.target_modules, SITES))
        fields = {field.name for field in dataclasses.fields(self._class())}
        turned = any(isinstance(module, Conv1D) for module in chosen.values())
        more = {"fan_in_fan_out": True} if turned and "fan_in_fan_out" in fields else {}
        formats = quant.describe(view.base)
        if formats:
            raise TargetError(
                f"peft's layers are put around plain ones, and the base is quantized ({formats}).",
                field="quantization",
                remedy="Give the entry `quantization: null`, or take one of deltatune's own methods.",
            )
        with gathered(*chosen.values()):
            return self._built(view, chosen, more)

    def _built(self, view: BaseView, chosen: dict[str, nn.Module], more: dict[str, Any]) -> PeftAdapter:
        """The adapter at the modules `chosen`, made with `more` settings."""
        skeleton = skeleton_of(view.base)
        for path in chosen:  # copies for now: some initialisations write into what they are given
            twin = skeleton.get_submodule(path)
            twin._parameters = copy.deepcopy(twin._parameters)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                config = self.in_peft(list(chosen), **more)
                model = _peft().get_peft_model(skeleton, config, adapter_name=NAME)
        except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
            raise TargetError(
                f"peft cannot build {self.peft_type} here: {error}",
                field="peft",
                remedy="Choose other target_modules or settings.",
            ) from error
        layers = layers_of(model)
        for path, layer in layers.items():
            given = dict(layer.base_layer.named_parameters(recurse=False))
            own = view.modules[path].named_parameters(recurse=False)
            if not all(torch.equal(given[name], parameter) for name, parameter in own):
                raise TargetError(
                    f"{self.peft_type} with these settings changes the weight of {path!r}.",
                    field="peft",
                    remedy="Choose an initialisation that leaves the base alone.",
                )
        deltas = {path: PeftDelta(layer) for path, layer in layers.items()}
        for path, delta in deltas.items():
            freeze_answer(delta.layer.base_layer, view.modules[path])
        self._own_dropout(deltas)
        return PeftAdapter(deltas, model)

    def _in_layers(self, chosen: dict[str, nn.Module]) -> dict[str, nn.Module]:
        """Those of the modules in the layers that `layers_to_transform` names.

        peft asks for the layer only where targets are ends of paths, and here it gets whole ones.

        Raises:
            TargetError: None of them is.
        """
        layers = self.settings().get("layers_to_transform")
        if layers is None:
            return chosen
        from peft.tuners.tuners_utils import check_target_module_exists

        ends = self.in_peft(sorted({path.rpartition(".")[2] for path in chosen}))
        left = {path: module for path, module in chosen.items() if check_target_module_exists(ends, path)}
        if not left:
            raise TargetError(
                f"none of the {len(chosen)} modules is in the layers {layers}.",
                field="layers_to_transform",
                remedy="Name layers of the base, counted from 0.",
            )
        return left

    def _own_dropout(self, deltas: Mapping[str, PeftDelta]) -> None:
        """Replace dropout by ours, and refuse what else is random in training."""
        kinds = {p for d in deltas.values() for m in d.modules() if type(m) is nn.Dropout and (p := m.p)}
        asked = {key: p for key, p in self.settings().items() if "dropout" in key and p}
        others = [
            key for key, p in asked.items() if p not in kinds or key in ("rank_dropout", "module_dropout")
        ]
        if others:
            raise RecipeError(
                f"{', '.join(others)} of {self.peft_type} draws from the global generator, so that a run "
                "could not be repeated.",
                field="peft",
                remedy="Leave it at 0.",
            )
        for delta in deltas.values():
            for part in list(delta.modules()):
                for leaf, child in list(part._modules.items()):
                    if type(child) is nn.Dropout:
                        part._modules[leaf] = Dropout(child.p)

    def to_peft(self, adapter: Adapter, view: BaseView) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Peft's own configuration and tensors."""
        assert isinstance(adapter, PeftAdapter)
        config = cast(Any, adapter.model).peft_config[NAME]
        plain = {key: _plain(value) for key, value in config.to_dict().items() if key not in _DECIDED}
        return plain, adapter.stored()

    @classmethod
    def reads_peft(cls, config: Mapping[str, Any]) -> bool:
        """Whether peft is installed and its type acts on layers; the other methods are asked first."""
        try:
            return config.get("peft_type") in injectable() and config["peft_type"] not in UNFIT
        except RecipeError:
            return False

    @classmethod
    def from_peft(cls, config: Mapping[str, Any]) -> Self:
        """Take over the settings that differ from peft's defaults."""
        kind = _peft().PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]]
        start = {f.name: getattr(kind(), f.name) for f in dataclasses.fields(kind)}
        settings = {
            key: value
            for key, value in config.items()
            if key in start and key not in (*_DECIDED, *_OURS) and value != _plain(start[key])
        }
        targets = config["target_modules"]
        try:
            return cls(peft_type=config["peft_type"], target_modules=targets, **settings)
        except RecipeError as error:
            raise AdapterError(
                f"the file's settings cannot be used: {error}",
                field="adapter_config.json",
                remedy="Load it with peft.",
            ) from error


def _peft() -> Any:
    """The package.

    Raises:
        RecipeError: It is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise RecipeError(
            "the method 'peft' needs the package peft.", remedy='Install it: pip install "deltatune[peft]"'
        ) from error
    return peft


def injectable() -> list[str]:
    """Peft's types whose layers stand in for layers of the base.

    Raises:
        RecipeError: peft is not installed.
    """
    _peft()
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTuner

    return sorted(
        str(kind.value)
        for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if issubclass(tuner, BaseTuner)
        and getattr(tuner, "tuner_layer_cls", None)
        and kind.value not in UNFIT
    )


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, set | frozenset | tuple):
        return sorted(value) if isinstance(value, set | frozenset) else list(value)
    return getattr(value, "value", value)
