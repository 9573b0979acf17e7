"""Prefixes in attention that asks no table: BLOOM's as in its cache and in peft, DeBERTa's by the formula."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PrefixTuningConfig
from tests.oracle import bridge
from tests.oracle.test_peft_prefix import with_its_cache
from torch import Tensor
from torch.nn import functional as F

from deltatune.core.model import AdaptedModel
from deltatune.errors import AdapterError
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.testing.building import close

N = 3


def with_prefix(base: Any, **settings: Any) -> AdaptedModel:
    model = AdaptedModel(base)
    adapter = model.attach("a", METHODS.get("prefix")(n_tokens=N, init_std=0.5, **settings), seed=1)
    tiny.perturb(adapter)
    return model


@pytest.mark.parametrize("heads", [4, 3], ids=["heads that are a power of two", "heads that are not"])
@pytest.mark.parametrize("padded", ["right", "left"])
def test_a_prefix_of_bloom_that_a_text_has_made_is_that_text(heads: int, padded: str) -> None:
    """Its keys and values are put into the prefix; behind it a row gives what it gives behind the text."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 48, "hidden_size": 24, "n_layer": 2, "n_head": heads, "initializer_range": 0.3}
    base = transformers.BloomForCausalLM(transformers.BloomConfig(**sizes)).eval()
    begin = torch.tensor([[5, 9, 31]])
    with torch.no_grad():
        cache = base(begin, use_cache=True)[1]
    model = with_prefix(copy.deepcopy(base))
    with torch.no_grad():
        for layer, table in zip(cache.layers, model.adapter("a").keys_values.values(), strict=True):
            table.keys.copy_(layer.keys[0])
            table.values.copy_(layer.values[0])
    made = tiny.batch("bloom") if padded == "right" else tiny.prompts("bloom")
    ids, mask = made["input_ids"], made["attention_mask"]
    rows = len(ids)
    whole = torch.cat([begin.expand(rows, -1), ids], dim=1)
    seen = torch.cat([mask.new_ones(rows, N), mask], dim=1)
    with torch.no_grad():
        expected = base(whole, attention_mask=seen).logits[:, N:]
        close(model(input_ids=ids, attention_mask=mask).logits[mask.bool()], expected[mask.bool()])
        if bool(mask[0].all()):
            close(model(input_ids=ids[:1]).logits, expected[:1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attended", ["in float32", "in bfloat16"])
def test_gradients_and_what_is_written_are_those_of_peft(attended: str, tmp_path: Path) -> None:
    dtype = torch.float32 if attended == "in float32" else torch.bfloat16
    theirs = bridge.in_peft("bloom", PrefixTuningConfig(num_virtual_tokens=N)).to(dtype)
    theirs.save_pretrained(tmp_path)
    ours = bridge.load_in_ours("bloom", tmp_path)
    ours.base.to(dtype)
    batch = tiny.batch("bloom")
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    close(ours(**batch).loss, theirs(**batch).loss, tolerance)
    ours(**batch).loss.backward()
    theirs(**batch).loss.backward()
    [table] = [p.grad for p in theirs.parameters() if p.grad is not None]
    by_layer = table.view(N, 2 * tiny.LAYERS, tiny.HEADS, -1).permute(1, 2, 0, 3)
    sites = ours.adapter("default").keys_values.values()
    found = torch.stack([t.grad for site in sites for t in (site.keys, site.values)])
    close(found, by_layer.to(found.dtype), tolerance)
    if dtype == torch.float32:
        inputs = tiny.prompts("bloom")
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
        for beams in (1, 3):
            mine = ours.generate(**inputs, **options, num_beams=beams)
            assert torch.equal(mine, with_its_cache(theirs).generate(**inputs, **options, num_beams=beams))


def test_a_cache_of_fixed_size_gives_the_same_tokens() -> None:
    model = with_prefix(tiny.model("bloom"))
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    tokens = model.generate(**tiny.prompts("bloom"), **options)
    again = model.generate(**tiny.prompts("bloom"), **options, cache_implementation="static")
    assert torch.equal(again, tokens)


SIZES = {
    "vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0, "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"], "initializer_range": 0.3,
}  # fmt: skip
DEBERTAS: dict[str, tuple[str, dict[str, Any]]] = {
    "v2": ("DebertaV2", {}),
    "v2, as released": (
        "DebertaV2",
        {"share_att_key": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm"},
    ),
    "v2, one term": ("DebertaV2", {"pos_att_type": ["p2c"]}),
    "v2, no terms": ("DebertaV2", {"pos_att_type": []}),
    "v2, no relative positions": ("DebertaV2", {"relative_attention": False, "pos_att_type": None}),
    "v1": ("Deberta", {}),
    "v1, one term": ("Deberta", {"pos_att_type": ["c2p"]}),
    "v1, no relative positions": ("Deberta", {"relative_attention": False, "pos_att_type": None}),
}


def deberta(label: str) -> Any:
    kind, changes = DEBERTAS[label]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    base = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return base


@pytest.mark.parametrize("label", DEBERTAS)
def test_deberta_sees_a_prefix_by_its_content_alone(label: str) -> None:
    """softmax([q P_k / sqrt(d terms); the base's own scores]) [P_v; V], from what the base computes."""
    base = deberta(label)
    module = next(m for m in base.modules() if type(m).__name__ == "DisentangledSelfAttention")
    batch = {name: value for name, value in tiny.batch("deberta-v2").items() if name != "labels"}
    rows, length = batch["input_ids"].shape
    heads, width = tiny.HEADS, 16 // tiny.HEADS
    real = batch["attention_mask"].bool()
    own: dict[str, Tensor] = {}
    softmax = F.softmax

    def watched(scores: Tensor, **rest: Any) -> Tensor:
        own.setdefault("scores", scores.view(rows, heads, length, length))
        return softmax(scores, **rest)

    def caught(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
        own.setdefault("x", args[0])
        own["mixed"] = output[0]

    module.register_forward_hook(caught, with_kwargs=True)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "softmax", watched)
        base(**batch)
    x = own["x"]
    if hasattr(module, "in_proj"):
        query, _, value = module.in_proj(x).view(rows, length, heads, -1).transpose(1, 2).chunk(3, dim=-1)
        query, value = (
            query + module.q_bias.view(heads, 1, width),
            value + module.v_bias.view(heads, 1, width),
        )
    else:
        query, value = (
            part(x).view(rows, length, heads, -1).transpose(1, 2)
            for part in (module.query_proj, module.value_proj)
        )
    model = with_prefix(base)
    [table] = model.adapter("a").keys_values.values()
    terms = 1 + len(module.pos_att_type)
    scores = query @ table.keys.transpose(1, 2) / (width * terms) ** 0.5
    shares = torch.softmax(torch.cat([scores, own["scores"]], dim=3), dim=3)
    values = torch.cat([table.values.expand(rows, -1, -1, -1), value], dim=2)
    expected = (shares @ values).transpose(1, 2).flatten(2)
    model(**batch)
    close(own["mixed"][real], expected[real])
    with model.using():
        model(**batch)
    assert (own["mixed"] - expected)[real].abs().max() > 1e-2


def test_a_model_with_such_a_prefix_is_not_copied_and_takes_no_other() -> None:
    for architecture in ("bloom", "deberta-v2"):
        model = with_prefix(tiny.model(architecture))
        with pytest.raises(AdapterError, match="cannot be copied"):
            copy.deepcopy(model.base)
        with pytest.raises(AdapterError, match="another AdaptedModel"):
            with_prefix(model.base)
        model.detach("a")
        copy.deepcopy(model.base)


@pytest.mark.parametrize("architecture", ["bloom", "deberta-v2"])
def test_in_the_types_that_autocast_chooses(architecture: str) -> None:
    model, batch = with_prefix(tiny.model(architecture)), tiny.batch(architecture)
    exact = model(**batch).loss
    with torch.autocast("cpu", dtype=torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = model(**batch).loss
    loss.backward()
    assert abs(loss.item() - exact.item()) < 0.05 * abs(exact.item())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.adapter("a").parameters())


@pytest.mark.parametrize("architecture", ["bloom", "deberta-v2"])
@pytest.mark.parametrize("order", [("prefix", "lora"), ("lora", "prefix")])
def test_beside_a_change_of_the_projections(architecture: str, order: tuple[str, str]) -> None:
    """LoRA of query, key and value acts on the input's keys alone, as it does when it is merged."""
    settings = {"prefix": {"n_tokens": N, "init_std": 0.5}, "lora": {"targets": ["query", "key", "value"]}}
    batch = tiny.batch(architecture)
    model = AdaptedModel(tiny.model(architecture))
    for name in order:
        tiny.perturb(model.attach(name, METHODS.get(name)(**settings[name]), seed=1))
    model.use(*order)
    found = model(**batch).logits
    other = AdaptedModel(model.merged("lora"))
    adapter = other.attach("prefix", METHODS.get("prefix")(**settings["prefix"]))
    adapter.load_state_dict(model.adapter("prefix").state_dict())
    real = batch["attention_mask"].bool() if architecture == "bloom" else slice(None)
    close(found[real], other(**batch).logits[real])
