"""Every change of weights as plain LoRA: exact where the rank allows, else the nearest of its rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.exporting import truncate as truncating
from deltatune.exporting.changes import LowRankUpdate
from deltatune.exporting.low_rank import EXPORTED, attach, low_rank
from deltatune.exporting.target import Settings
from deltatune.exporting.truncate import truncate
from deltatune.observer import Silent
from deltatune.recipe.baselines import TRAIN_NOTHING
from deltatune.runs.loaded import NAME
from deltatune.testing import tiny
from deltatune.testing.building import add, close, logits
from tests.contract.cases import CASES, Case

BASES = ("bert", "llama", "gpt2", "t5", "vit", "opt", "dinov2")
ALL_OF_IT = Settings(rank=1000)
NO_WEIGHTS = ("prefix", "prompt", "p_tuning", "p_tuning_v2", "adapter", "hard_prompt", *TRAIN_NOTHING)


def with_run(case: Case, architecture: str) -> AdaptedModel:
    model = AdaptedModel(tiny.model(architecture), tiny.heads(architecture))
    add(model, case, NAME)
    return model.eval()


def exported(model: AdaptedModel, settings: Settings) -> Any:
    made = low_rank(model, "it", settings, Silent())
    attach(model, made)
    model.eval()
    return made


def of_weights() -> list[Any]:
    """Each method that changes weights on one base after the other; whole models on all of them.

    Of a method's variants the first is always tried, and of whole models the first base.
    """
    chosen, turn, tried = list[Any](), 0, set[str]()
    for case in CASES:
        if case.method in NO_WEIGHTS:
            continue
        able = [b for b in BASES if not case.gap("*", b) and not case.gap("merge", b)]
        able = [b for b in able if case.method != "bitfit" or b in ("bert", "gpt2", "vit", "opt", "dinov2")]
        for base in able if case.method == "full" else able[turn % len(able) :][:1] if able else ():
            marks = pytest.mark.slow if case.method in tried else ()
            chosen.append(pytest.param(case, base, id=f"{case.label}-{base}", marks=marks))
            tried.add(str(case.method))
        turn += 1
    return chosen


@pytest.mark.parametrize(("case", "architecture"), of_weights())
def test_with_its_whole_rank_an_update_is_exact(case: Case, architecture: str) -> None:
    model, batch = with_run(case, architecture), tiny.batch(architecture)
    with torch.no_grad(), model.using(NAME):
        wanted = logits(model, batch)
    made = exported(model, ALL_OF_IT)
    if made.changes.left_out:  # parameters that belong to no layer, of full fine-tuning
        assert {part.parameter.rpartition(".")[2] for part in made.changes.left_out} <= {
            "cls_token", "position_embeddings", "mask_token", "lambda1", "weight",
        }  # fmt: skip
        assert not made.exact
        return
    assert made.exact
    with torch.no_grad(), model.using(EXPORTED):
        close(logits(model, batch), wanted)


@pytest.mark.parametrize("method", NO_WEIGHTS)
def test_what_is_no_change_of_weights_is_refused(method: str) -> None:
    case = next(case for case in CASES if case.method == method)
    with pytest.raises(AdapterError, match=r"no change of (weights|its weight)|trained nothing") as error:
        low_rank(with_run(case, "t5" if case.refused("bert") else "bert"), method, Settings(), Silent())
    assert error.value.remedy


def test_a_bias_that_the_base_has_not_is_refused() -> None:
    case = next(case for case in CASES if case.method == "bitfit")
    with pytest.raises(AdapterError, match="has none in the base"):
        low_rank(with_run(case, "llama"), "bitfit", Settings(), Silent())


def test_a_cut_update_is_that_of_numpy() -> None:
    case = next(case for case in CASES if case.label == "dora")
    model = with_run(case, "llama")
    with model.using():
        before = {k: v.detach().clone() for k, v in model.base.named_parameters()}
    with model.using(NAME):
        after = dict(model.merged().named_parameters())
    made = exported(model, Settings(rank=2))
    assert made.sites
    assert not made.exact
    for site in made.sites:
        update = (after[f"{site.path}.weight"] - before[f"{site.path}.weight"]).double().numpy()
        u, s, vt = np.linalg.svd(update)
        down, up = made.factors[site.path]
        np.testing.assert_allclose((up @ down).numpy(), (u[:, :2] * s[:2]) @ vt[:2], atol=1e-6)
        assert site.kept == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), abs=1e-6)
        assert site.energy == pytest.approx((update**2).sum(), rel=1e-5)


@pytest.mark.parametrize("product", [False, True])
def test_the_least_rank_that_keeps_a_share_is_taken(product: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.tensor([4.0, 2.0, 1.0, 0.5])
    q = [torch.linalg.qr(torch.randn(n, 4, generator=generator, dtype=torch.float64))[0] for n in (7, 9)]
    down, up = (values[:, None] * q[1].T).float(), q[0].float()
    update = LowRankUpdate(down, up) if product else up @ down
    energy = values.square().sum().item()  # 16 + 4 + 1 + 0.25
    for keep, rank in ((0.75, 1), (16 / energy + 1e-6, 2), (0.95, 3), (0.999, 4), (1.0, 4)):
        cut = truncate(update, None, keep)
        assert len(cut.down) == rank
        assert cut.kept >= keep - 1e-9
        assert cut.kept == pytest.approx(values[:rank].square().sum().item() / energy)
    assert truncate(update, 3, None).kept == pytest.approx(21 / energy)
    assert truncate(update, None, None).exact


def test_rounding_has_no_rank() -> None:
    """MiSS adds a matrix of rank r to the weight; a sum in float32 would leave rounding of full rank."""
    case = next(case for case in CASES if case.method == "miss")
    model = with_run(case, "llama")
    with torch.no_grad():
        for parameter in model.base.parameters():
            parameter.mul_(1000)
    made = low_rank(model, "miss", ALL_OF_IT, Silent())
    assert {site.needed for site in made.sites} == {case.settings().r}


def test_a_large_matrix_is_decomposed_at_random_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 50, generator=generator))[0] for n in (60, 80))
    update = (u * 0.8 ** torch.arange(50)) @ v.T
    best = truncate(update, 4, None)
    state = torch.get_rng_state()
    monkeypatch.setattr(truncating, "EXACT_UP_TO", 32)
    found = truncate(update, 4, None)
    assert (best.how, found.how) == ("svd", "randomized svd")
    assert found.kept == pytest.approx(best.kept, abs=1e-4)
    residual = (update - found.up @ found.down).double().square().sum().item()
    assert residual == pytest.approx(found.energy * (1 - found.kept), rel=1e-4)
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_changed_has_no_rank() -> None:
    cut = truncate(torch.zeros(4, 6), 16, None)
    assert (len(cut.down), cut.kept, cut.exact) == (0, 1.0, True)
