"""Lightning's Trainer drives our schedules, and goes on from its own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import deltatune as dt
from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError, TrainingError
from deltatune.methods.adalora import AdaLoraAdapter
from deltatune.testing import tiny

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
lightning = pytest.importorskip("lightning.pytorch")
ADALORA = dt.AdaLoraConfig(init_r=3, target_r=1, tinit=1, tfinal=2, interval=1, dropout=0.1)


class Module(lightning.LightningModule):  # type: ignore[name-defined,misc]
    def __init__(self, model: AdaptedModel, groups: Any) -> None:
        super().__init__()
        self.model, self.groups = model, groups

    def training_step(self, batch: Any, index: int) -> Any:
        return self.model(**batch).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.groups)


def rows() -> list[dict[str, Any]]:
    ids = torch.randint(3, 40, (12, 8), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def fitted(model: AdaptedModel, out: Path, resume: Path | None = None, **settings: Any) -> Any:
    from deltatune.integrations.lightning import DeltaCallback

    delta = DeltaCallback(model, out=out)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=out, callbacks=[delta, *settings.pop("callbacks", ())],
        **{"max_epochs": 3, "accumulate_grad_batches": 2, "enable_checkpointing": False, **settings},
    )  # fmt: skip
    module = Module(model, delta.parameters(lr=1e-2))
    trainer.fit(module, DataLoader(rows(), batch_size=4), ckpt_path=resume, weights_only=True)
    return delta


def test_adalora_meets_its_budget_and_goes_on(tmp_path: Path) -> None:
    whole = dt.adapt(tiny.model("llama"), ADALORA)
    saver = lightning.callbacks.ModelCheckpoint(tmp_path / "states", save_top_k=-1, every_n_epochs=1)
    delta = fitted(
        whole, tmp_path / "whole", callbacks=[saver], enable_checkpointing=True, gradient_clip_val=1.0
    )
    adapter = whole.adapter("default")
    assert isinstance(adapter, AdaLoraAdapter)
    assert adapter.alive() == adapter.target
    assert delta.loop.taken == 6  # two an epoch: of 4 + 4 rows and of 4
    assert delta.certificate.passed
    first = min((tmp_path / "states").iterdir())
    saved = torch.load(first, weights_only=True)["state_dict"]
    assert saved
    assert not any(".base." in key for key in saved)
    rest = dt.adapt(tiny.model("llama"), ADALORA)
    fitted(rest, tmp_path / "rest", resume=first, gradient_clip_val=1.0)
    for name, value in whole.adapter("default").named_parameters():
        assert torch.equal(rest.adapter("default").get_parameter(name), value), name


def test_a_schedule_that_did_not_end_is_an_error(tmp_path: Path) -> None:
    model = dt.adapt(tiny.model("llama"), ADALORA)

    class Stop(lightning.Callback):  # type: ignore[name-defined,misc]
        def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
            trainer.should_stop = True

    with pytest.raises(TrainingError, match="final budget"):
        fitted(model, tmp_path, callbacks=[Stop()])


def test_a_module_with_another_model(tmp_path: Path) -> None:
    from deltatune.integrations.lightning import DeltaCallback

    delta = DeltaCallback(dt.adapt(tiny.model("llama"), ADALORA), out=tmp_path)
    other = dt.adapt(tiny.model("llama"), ADALORA)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, callbacks=[delta], max_epochs=1,
                                enable_checkpointing=False, enable_progress_bar=False)  # fmt: skip
    module = Module(other, other.adapter("default").parameters())
    loader = DataLoader(rows(), batch_size=4)
    with pytest.raises(AdapterError, match="does not hold"):
        trainer.fit(module, loader)
