"""What peft saves, of every type and setting, gives its logits here, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
from tests.oracle import bridge
from tests.oracle.peft_adapters import CASES, Saved, batch_of, saved_by_peft

from deltatune.core.model import AdaptedModel
from deltatune.errors import DeltatuneError
from deltatune.testing import tiny
from deltatune.testing.building import close

USUAL = {  # the rest takes a minute
    ("LORA(bias='all')", "bert"),
    ("LORA(target_modules=['lm_head']) tied", "llama"),
    ("LORA(target_modules=['projection'])", "vit"),
    ("LORA(trainable_token_indices=[3, 4]) tied", "llama"),
    ("TRAINABLE_TOKENS(token_indices=[3, 4], target_modules=['EMBEDDING'])", "llama"),
}
PARAMETERS = [
    pytest.param(
        case,
        architecture,
        marks=[] if (case.label, architecture) in USUAL else [pytest.mark.slow],
        id=f"{case.label}-{architecture}",
    )
    for case in CASES
    for architecture in case.on
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "architecture"), PARAMETERS)
def test_what_peft_saves_loads_or_is_refused(case: Saved, architecture: str, tmp_path: Path) -> None:
    base, wanted, plain = saved_by_peft(case, architecture, tmp_path / "theirs")
    model = AdaptedModel(base, tiny.heads(architecture))
    if case.refused:
        with pytest.raises(DeltatuneError, match=case.refused) as refusal:
            model.load(tmp_path / "theirs")
        assert refusal.value.remedy
        assert not model.adapters
        return
    model.load(tmp_path / "theirs")
    assert model.configs["default"].name == case.method
    assert (wanted - plain).abs().max() > 1e-3
    batch = batch_of(architecture)
    close(bridge.real_logits(model, architecture, batch), wanted)
    model.save(tmp_path / "ours")  # and it stays what it is
    again = AdaptedModel(base, tiny.heads(architecture))
    model.detach("default")
    again.load(tmp_path / "ours")
    close(bridge.real_logits(again, architecture, batch), wanted)


def test_every_type_of_peft_is_among_them() -> None:
    known = {kind.value for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING}
    unsaved = {"POLY", "SHADOW", "XLORA"}  # which need tasks, a second network, or adapters to mix
    assert {case.kind for case in CASES} == known - unsaved
