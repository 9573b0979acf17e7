"""An AdaptedModel as Transformers' and TRL's trainers take a model with an adapter: as one of peft's.

These trainers ask whether a model is a `PeftModel`. Of one that is they save the adapter alone, read their
loss and columns off the base, take the model without its adapter as DPO's reference, and patch the base where
they compute log-probabilities. So this is one by type, and answers all that they ask with ours.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import nn

from deltatune.checkpoint.resume import load_state
from deltatune.checkpoint.saved import CONFIG, OURS, TENSORS
from deltatune.checkpoint.store import save_adapter
from deltatune.core.adapter import Adapter
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, RecipeError, TargetError, TrainingError
from deltatune.files import new_folder, storing
from deltatune.integrations.loop import OwnLoop
from deltatune.integrations.required import require_same
from deltatune.training.loop.state import adapter_state, load_adapter_state

try:
    from peft import PeftConfig, PeftModel
except ImportError as error:
    raise RecipeError(
        "trainers of Transformers and TRL know models with adapters by peft's class, and peft is not "
        "installed.",
        remedy='Install it: pip install "deltatune[peft]".',
    ) from error

DEFAULT, REFERENCE = "default", "ref"
"""What TRL calls the adapter that is trained, and the copy of its start that is DPO's reference."""
STATE = "deltatune-state"
"""The folder in a checkpoint from which the schedule goes on."""
PLAINLY = "Call delta.model without it, or train with `deltatune train`."


class TrainerModel(PeftModel):
    """A base and the delta that is trained in it. Made by `DeltaCallback`.

    Args:
        model: The adapted model.
        name: The delta that is trained.
    """

    # TRL rounds what is trained to bfloat16 on bases of which these say that they are quantized.
    is_loaded_in_4bit = False
    is_loaded_in_8bit = False

    def __init__(self, model: AdaptedModel, name: str) -> None:
        nn.Module.__init__(self)  # peft's own builds one of its tuners
        self._held = (model,)  # in a tuple: the base and one delta are what optimizers shall find
        self.trained = name
        self.base = model.base
        self.delta = model.adapter(name)
        head, modules = model.base.get_output_embeddings(), model.view.modules
        self._acts_at_head = any(modules[path] is head for path in self.delta.deltas)
        self.reference: Adapter | None = None
        self.loop: OwnLoop | None = None
        """While the callback drives the delta."""
        self.resumes: Path | None = None
        """The checkpoint that training is to go on from."""
        self.calls: list[dict[str, Any]] | None = None
        """Calls of the step, where the method searches."""

    def __getattr__(self, name: str) -> Any:
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            if name == "base":  # before it is there
                raise
            return getattr(self.base, name)

    @property
    def adapted(self) -> AdaptedModel:
        """The adapted model."""
        return self._held[0]

    def train(self, mode: bool = True) -> Self:
        """Switch the delta; the base follows only if its dropout is wanted."""
        self.training = mode
        self.adapted.train(mode)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base's forward pass with the delta.

        Raises:
            TrainingError: It is trained, and the callback that drives its schedule is not there.
            TargetError: TRL computes what the output head gives past the delta that acts on it.
        """
        if self.training and torch.is_grad_enabled():
            if self.loop is None:
                raise TrainingError(
                    "the delta is trained, and nothing drives its schedule.",
                    field="callbacks",
                    remedy="Give the trainer the callback as well: callbacks=[delta].",
                )
            if self.calls is not None:
                self.calls.append(kwargs)
        if kwargs.get("fused_lm_head") and self._acts_at_head:
            raise TargetError(
                "this trainer multiplies by the output head's own weights, past the delta that acts there.",
                field="targets",
                remedy="Leave the output head out of the targets.",
            )
        names = inspect.signature(type(self.base).forward).parameters
        return self.adapted(**dict(zip(list(names)[1:], args, strict=False)), **kwargs)

    def generate(self, **arguments: Any) -> Any:
        """`generate` of the base with the delta."""
        return self.adapted.generate(**arguments)

    @property
    def generation_config(self) -> Any:
        """The base's own, also when a trainer sets another."""
        return self.base.generation_config

    @generation_config.setter
    def generation_config(self, config: Any) -> None:
        self.base.generation_config = config

    def get_base_model(self) -> Any:
        """The model of Transformers."""
        return self.base

    @property
    def base_model(self) -> Any:
        """What peft's tuner is to a trainer: something that holds the base."""
        return SimpleNamespace(model=self.base)

    @property
    def peft_config(self) -> dict[str, Any]:
        """A stand-in for each adapter, by TRL's names."""
        names = (DEFAULT,) if self.reference is None else (DEFAULT, REFERENCE)
        return {name: PeftConfig() for name in names}

    @property
    def active_adapter(self) -> str:
        """The adapter that acts, by TRL's name."""
        return REFERENCE if self.adapted.active == (REFERENCE,) else DEFAULT

    @property
    def active_adapters(self) -> list[str]:
        """The same as a list."""
        return [self.active_adapter]

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        """Let the delta act, or the copy of its start."""
        self.adapted.use(REFERENCE if adapter_name == REFERENCE else self.trained)

    @contextlib.contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Within the block the plain base answers."""
        with self.adapted.using():
            yield

    def add_adapter(self, adapter_name: str, peft_config: Any, **settings: Any) -> None:
        """Keep a copy of the delta as it is now: DPO's reference, to which it is compared.

        Raises:
            AdapterError: Another adapter is asked for, or its name is taken.
        """
        if adapter_name != REFERENCE:
            raise AdapterError(
                f"a trainer asks for an adapter {adapter_name!r} beside the delta.", remedy=PLAINLY
            )
        model = self.adapted
        if REFERENCE in model.adapters:  # of a trainer before this one, or somebody's own
            raise AdapterError(
                f"TRL calls the copy of the delta's start {REFERENCE!r}, and there is a delta of this name.",
                field="model",
                remedy=f"Take it off first: model.detach({REFERENCE!r}).",
            )
        heads = self.delta.heads()
        copied = model.attach(REFERENCE, model.configs[self.trained], seed=self.delta.clock.seed, heads=heads)
        load_adapter_state(copied, adapter_state(self.delta), model.device)
        self.reference = copied.requires_grad_(False)
        model.use(self.trained)

    def get_parameter(self, target: str) -> nn.Parameter:
        """A parameter by its name; TRL asks for those of the reference by that of the delta's."""
        if f".{REFERENCE}." in target and target.startswith("delta."):
            target = f"reference.{target.removeprefix('delta.').replace(f'.{REFERENCE}.', f'.{DEFAULT}.')}"
        return nn.Module.get_parameter(self, target)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Any = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """Keep only each layer's input, and compute the rest again in the backward pass.

        Raises:
            TargetError: Only some layers shall be, or what is kept shall be moved to the host.
        """
        if every_n_layers != 1 or offload or (activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise TargetError(
                "layers of a base with deltas are recomputed all, without moving what they keep, and not "
                "reentrantly.",
                field="gradient_checkpointing_kwargs",
                remedy="Leave every_n_layers, offload and use_reentrant out.",
            )
        self.adapted.gradient_checkpointing(True)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None) -> None:
        """The same by its former name."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        """Compute nothing again."""
        self.adapted.gradient_checkpointing(False)

    activation_checkpointing_disable = gradient_checkpointing_disable

    def enable_input_require_grads(self) -> None:
        """Nothing: gradients reach deltas behind recomputed layers without."""

    def save_pretrained(
        self, save_directory: str | Path, is_main_process: bool = True, **settings: Any
    ) -> None:
        """Write the delta in our format, which is peft's where peft has the method, and what training needs.

        Args:
            save_directory: Where to; other files in it stay.
            is_main_process: Whether this process writes.
            settings: Of peft's and Transformers'; ours decide.

        Raises:
            RecipeError: It shall be sent to the hub as well.
        """
        if settings.get("push_to_hub"):
            raise RecipeError(
                "saving sends nothing to the hub.",
                field="push_to_hub",
                remedy="Save it, and send the folder: `deltatune push`. Trainers push by their settings.",
            )
        if not is_main_process:
            return
        folder = Path(save_directory)
        with storing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            temporary = new_folder(folder, "new.delta")
            try:
                fingerprint = self.loop.fingerprint if self.loop is not None else None
                save_adapter(self.adapted, self.trained, temporary / "delta", fingerprint=fingerprint)
                for name in (TENSORS, CONFIG, OURS):  # ours last: its checksums vouch for the others
                    (temporary / "delta" / name).replace(folder / name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        if self.loop is not None:
            self.loop.save(folder / STATE)

    def load_adapter(self, model_id: str | Path, adapter_name: str = DEFAULT, **settings: Any) -> None:
        """Take up the delta and its schedule from a checkpoint; before training, when it begins.

        Raises:
            AdapterError: There is no state of ours, or it is of another method.
        """
        folder = Path(model_id)
        if not (folder / STATE).is_dir():
            raise AdapterError(
                f"'{folder}' has no '{STATE}', so the schedule cannot go on from it.",
                remedy="Go on from a checkpoint that a trainer with this callback wrote.",
            )
        if self.loop is None:  # and the optimizer's state, which fits this delta's alone, comes next
            require_same(self.adapted.configs[self.trained], load_state(folder / STATE), folder / STATE)
            self.resumes = folder / STATE
        else:
            self.loop.load(folder / STATE)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """Nothing: the trainer's own card stays."""
