"""A prefix of peft on an encoder-decoder is the past of its decoder: the same logits, tokens and steps."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PrefixTuningConfig, get_peft_model
from tests.oracle import bridge
from torch import Tensor

from deltatune.core.model import AdaptedModel
from deltatune.errors import RecipeError, TargetError
from deltatune.methods import METHODS
from deltatune.models.positions import room_of
from deltatune.testing import Case, Check, method_checks, tiny
from deltatune.testing.building import close

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENS = 4
RAW = {"return_dict_in_generate": True, "output_logits": True}
_T5, _BART = tiny._T5, tiny._BART
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "t5": ("T5", _T5),
    "mt5": ("MT5", _T5),
    "umt5, a bias in each layer": ("UMT5", _T5),
    "t5, three layers": ("T5", {**_T5, "num_layers": 3}),
    "t5, a shorter decoder": ("T5", {**_T5, "num_layers": 3, "num_decoder_layers": 2}),
    "bart": ("Bart", _BART),
    "bart, four layers": ("Bart", {**_BART, "encoder_layers": 4, "decoder_layers": 4}),
    "bart, a shorter decoder": ("Bart", {**_BART, "encoder_layers": 4}),
    "mbart": ("MBart", _BART),
    "pegasus": ("Pegasus", _BART),
    "m2m_100, no positions for padding": ("M2M100", _BART),
    "blenderbot": ("Blenderbot", _BART),
}


def base_of(label: str) -> Any:
    """A model whose tokens differ from row to row."""
    kind, settings = BASES[label]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    base = getattr(transformers, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return base


def in_peft(base: Any) -> Any:
    config = PrefixTuningConfig(num_virtual_tokens=TOKENS, task_type="SEQ_2_SEQ_LM")
    theirs: Any = get_peft_model(copy.deepcopy(base), config).eval()
    bridge.perturb_trainable(theirs, seed=3)
    return theirs


def in_ours(base: Any, folder: Path) -> AdaptedModel:
    model = AdaptedModel(copy.deepcopy(base))
    model.load(folder)
    return model


def with_its_cache(theirs: Any) -> Any:
    """peft's model, so mended that it knows the cache by the name that Transformers 5.24 gave it."""
    before = theirs.base_model_prepare_inputs_for_generation

    def prepare(*args: Any, **kwargs: Any) -> dict[str, Any]:
        made: dict[str, Any] = before(*args, **kwargs)
        if "cache" in made:
            made["past_key_values"] = made.pop("cache")
        return made

    theirs.base_model_prepare_inputs_for_generation = prepare
    return theirs


@pytest.mark.parametrize("label", BASES)
def test_logits_and_tokens(label: str, tmp_path: Path) -> None:
    base, batch = base_of(label), tiny.batch("t5")
    theirs = in_peft(base)
    wanted = bridge.real_logits(theirs, "t5", batch)
    assert (wanted - bridge.real_logits(base, "t5", batch)).abs().max() > 1e-2
    theirs.save_pretrained(tmp_path / "theirs")
    ours = in_ours(base, tmp_path / "theirs")
    close(bridge.real_logits(ours, "t5", batch), wanted)
    ours.save(tmp_path / "ours")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = bridge.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "ours")).eval()
    close(bridge.real_logits(again, "t5", batch), wanted)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with_its_cache(theirs)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **RAW}
    mine, others, plain = (model.generate(**inputs, **options) for model in (ours, theirs, base))
    assert torch.equal(mine.sequences, others.sequences)
    close(torch.stack(mine.logits), torch.stack(others.logits))
    assert (torch.stack(mine.logits) - torch.stack(plain.logits)).abs().amax(dim=(1, 2)).min() > 1e-2


@pytest.mark.parametrize("label", ["t5", "bart"])
def test_beams(label: str, tmp_path: Path) -> None:
    base, batch = base_of(label), tiny.batch("t5")
    theirs = with_its_cache(in_peft(base))
    theirs.save_pretrained(tmp_path)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    tokens = in_ours(base, tmp_path).generate(**inputs, **options)
    assert torch.equal(tokens, theirs.generate(**inputs, **options))


@pytest.mark.parametrize("label", ["t5", "t5, three layers", "bart"])
def test_a_step_from_there(label: str, tmp_path: Path) -> None:
    """Layers that have rows in common in peft have them in common when it is trained on."""
    base, batch = base_of(label), tiny.batch("t5")
    theirs = in_peft(base)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = in_ours(base, tmp_path / "theirs").train()
    steps = []
    for model, parameters in (
        (theirs, [p for p in theirs.parameters() if p.requires_grad]),
        (ours, list(ours.adapter("default").parameters())),
    ):
        loss = model(**batch).loss
        loss.backward()
        torch.optim.SGD(parameters, lr=0.5).step()
        steps.append(loss.item())
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)
    close(bridge.real_logits(ours.eval(), "t5", batch), bridge.real_logits(theirs, "t5", batch))
    assert (ours(**batch).loss - steps[0]).abs() > 1e-3


def test_a_cache_of_fixed_size_gives_the_same_tokens(tmp_path: Path) -> None:
    base, batch = base_of("t5"), tiny.batch("t5")
    in_peft(base).save_pretrained(tmp_path)
    ours = in_ours(base, tmp_path)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    tokens = ours.generate(**inputs, **options)
    assert torch.equal(ours.generate(**inputs, **options, cache_implementation="static"), tokens)


@pytest.mark.parametrize("label", ["t5", "bart"])
def test_our_own_prefix_has_no_position(label: str) -> None:
    """Its meaning is the one that it had: the first key of a prefix is as near as the last."""
    base, batch = base_of(label), tiny.batch("t5")

    def logits(**settings: Any) -> Tensor:
        model = AdaptedModel(copy.deepcopy(base))
        adapter = model.attach("a", METHODS.get("prefix")(n_tokens=3, scopes=("decoder",), **settings))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for table in adapter.keys_values.values():
                for parameter in (table.keys, table.values):
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
            before = bridge.real_logits(model, "t5", batch)
            for parameter in adapter.parameters():
                parameter.copy_(parameter.flip(1))
        if not settings or label == "bart":  # BART's keys have no bias by distance
            close(bridge.real_logits(model, "t5", batch), before)
        else:
            assert (bridge.real_logits(model, "t5", batch) - before).abs().max() > 1e-3
        return before

    assert (logits() - logits(cached_layers=2)).abs().max() > 1e-3


def test_the_positions_that_it_takes_are_the_decoders(tmp_path: Path) -> None:
    for label, taken in (("bart", TOKENS), ("t5", TOKENS)):
        base = base_of(label)
        in_peft(base).save_pretrained(tmp_path / label)
        ours = in_ours(base, tmp_path / label)
        room = room_of(ours.base, ours.adapter("default"))
        assert (room.taken, room.taken_in_decoder) == (0, taken)
    assert room.positions.decoder is None
    model = in_ours(base_of("bart"), tmp_path / "bart")
    rows = {"input_ids": torch.tensor([[5]]), "decoder_input_ids": torch.full((1, tiny.POSITIONS), 5)}
    with torch.no_grad(), pytest.raises(IndexError):
        model(**rows)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    base = base_of("t5")
    in_peft(base).save_pretrained(tmp_path)
    kind, settings = BASES["t5"]
    config = getattr(transformers, f"{kind}Config")(**{**settings, "num_decoder_layers": 3})
    with pytest.raises(TargetError, match="one of 3 layers"):
        in_ours(transformers.T5ForConditionalGeneration(config), tmp_path)
    with pytest.raises(TargetError, match="no encoder-decoder"):
        AdaptedModel(tiny.model("llama")).attach(
            "a", METHODS.get("prefix")(scopes=("decoder",), cached_layers=2)
        )
    with pytest.raises(RecipeError, match="decoder alone"):
        METHODS.get("prefix")(cached_layers=2)


PAST = Case(
    "prefix-cached",
    "prefix",
    {"n_tokens": 3, "init_std": 0.5, "scopes": ["decoder"], "cached_layers": 2},
    lambda architecture: 2 * 3 * tiny.D,  # both layers have the same
    identity=False,
    foldable=False,
    other={"n_tokens": 5, "init_std": 0.5, "scopes": ["decoder"], "cached_layers": 2},
)
"""What every method promises, of this one as well; on other architectures than these it is refused."""


@pytest.mark.parametrize("check", method_checks(PAST, architectures=["t5", "bart", "marian"]), ids=str)
def test_the_contract(check: Check) -> None:
    check()
