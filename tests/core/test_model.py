"""AdaptedModel where several adapters meet, and where something goes wrong."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM

from deltatune.core.adapter import Adapter, KeysValues, Prompt
from deltatune.core.delta import Delta
from deltatune.core.loss import summed_loss
from deltatune.core.method import MethodConfig
from deltatune.core.model import AdaptedModel
from deltatune.core.sites import BaseView
from deltatune.errors import AdapterError, ModelError, TargetError
from deltatune.methods import METHODS
from deltatune.testing import tiny
from deltatune.testing.building import anatomy, close


def build(architecture: str, **options: object) -> AdaptedModel:
    return AdaptedModel(tiny.model(architecture), tiny.heads(architecture), **options)  # type: ignore[arg-type]


LORA, FULL, PREFIX, PROMPT = (METHODS.get(name) for name in ("lora", "full", "prefix", "prompt"))


def test_each_adapter_trains_a_head_of_its_own() -> None:
    model, batch = build("bert"), tiny.batch("bert")
    tiny.perturb(model.attach("a", LORA()), seed=1)
    first = model(**batch).logits
    second = model.attach("b", LORA())
    assert torch.equal(model(**batch).logits, build("bert")(**batch).logits)
    model(**batch).loss.backward()
    assert all(p.grad is None for p in model.adapter("a").parameters())
    assert all(p.grad is not None for name, p in second.trainable() if "copy" in name)
    model.use("a")
    assert torch.equal(model(**batch).logits, first)


@pytest.mark.parametrize("config", [FULL(), PROMPT(n_tokens=3), LORA()])
def test_a_new_adapter_starts_from_the_base_whatever_is_active(config: MethodConfig) -> None:
    model, lone = build("bert"), build("bert")
    tiny.perturb(model.attach("busy", FULL()))
    expected = lone.attach("a", config, seed=5).stored()
    found = model.attach("a", config, seed=5).stored()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_attaching_does_not_disturb_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build("t5").attach("a", LORA(), seed=9)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("name", ["a", "a.b", "", "ä", "a b", "items", "training"])
def test_bad_and_taken_names(name: str) -> None:
    model = build("llama")
    model.attach("a", LORA())
    with pytest.raises(AdapterError, match="cannot be the name"):
        model.attach(name, LORA())
    assert list(model.adapters) == ["a"]


def test_unknown_adapters_are_named() -> None:
    model = build("llama")
    model.attach("first", LORA())
    for act in (model.use, model.detach, model.adapter, model.merged):
        with pytest.raises(AdapterError, match="first"):
            act("fist")
    assert model.active == ("first",)


class BrokenConfig(MethodConfig):
    name: ClassVar[str] = "broken"

    def build(self, view: BaseView) -> Adapter:
        prompt = Prompt()
        prompt.vectors = nn.Parameter(torch.zeros(1, view.d_model))  # type: ignore[assignment]
        return Adapter({"classifier": Delta(), "vit": Delta()}, prompt=prompt)


def test_a_method_that_cannot_be_hung_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("vit")
    model.attach("a", LORA())
    before = anatomy(model.base)
    monkeypatch.delitem(model.base.vit._modules, "embeddings")
    with pytest.raises(TargetError, match="embeddings"):
        model.attach("b", BrokenConfig())
    monkeypatch.undo()
    assert anatomy(model.base)["hooks"] == before["hooks"]
    assert model.active == ("a",)
    assert list(model.adapters) == ["a"]


def test_mixed_methods_stack_and_share_a_batch() -> None:
    model, batch = build("t5"), tiny.batch("t5")
    configs = {"l": LORA(r=2), "k": PREFIX(n_tokens=2), "p": PROMPT(n_tokens=3), "q": PREFIX(n_tokens=4)}
    for seed, (name, config) in enumerate(configs.items()):
        tiny.perturb(model.attach(name, config), seed=seed)
    parts = {name: slice(row, row + 1) for row, name in enumerate(configs)}
    expected = []
    for name, rows in parts.items():
        model.use(name)
        expected.append(model.labelled_logits(tiny.rows_of(batch, rows))[0])
    with model.routing(parts, 4):
        close(model.labelled_logits(batch)[0], torch.cat(expected))
    model.use(*configs)
    everything = model.labelled_logits(batch)[0]
    model.use("l", "k", "p")
    assert (model.labelled_logits(batch)[0] - everything).abs().max() > 1e-3
    assert all(model.fired().values())


@pytest.mark.parametrize("architecture", tiny.SEQ2SEQ)
def test_routed_prompts_need_no_mask(architecture: str) -> None:
    model, batch = build(architecture), tiny.batch(architecture)
    del batch["attention_mask"]
    tiny.perturb(model.attach("a", PROMPT(n_tokens=2)), seed=1)
    tiny.perturb(model.attach("b", PROMPT(n_tokens=5)), seed=2)
    parts = {"a": slice(0, 2), "b": slice(2, 3)}
    expected = []
    for name, rows in [*parts.items(), ((), slice(3, 4))]:
        model.use(*([name] if name else []))
        expected.append(model.labelled_logits(tiny.rows_of(batch, rows))[0])
    with model.routing(parts, 4):
        close(model.labelled_logits(batch)[0], torch.cat(expected))


@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_routed_generation_is_that_of_each_row_alone(method: str, architecture: str) -> None:
    model, made = build(architecture), tiny.prompts(architecture)
    for seed, name in enumerate(("a", "b")):
        config = {} if method == "lora" else {"n_tokens": 3 + 2 * seed}
        tiny.perturb(model.attach(name, METHODS.get(method)(**config)), seed=seed)
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    parts = {"a": slice(0, 2), "b": slice(2, 4)}
    for beams in (1, 2):
        expected = []
        for name, rows in parts.items():
            model.use(name)
            expected.append(model.generate(**tiny.rows_of(made, rows), **options, num_beams=beams))
        with model.routing(parts, 4):
            found = model.generate(**made, **options, num_beams=beams)
        assert torch.equal(found, torch.cat(expected)), beams


def in_two_steps(model: AdaptedModel, ids: Tensor) -> Tensor:
    """Logits of the second half of `ids`, read behind the cache of the first, without masks and positions."""
    half = ids.shape[1] // 2
    before = model(input_ids=ids[:, :half], use_cache=True)
    name = (
        "cache" if "cache" in before else "past_key_values"
    )  # as Transformers calls it: before 5.24, and since
    logits: Tensor = model(input_ids=ids[:, half:], **{name: before[name]}).logits
    return logits


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_positions_behind_a_prefix_go_on_from_a_cache(architecture: str) -> None:
    model, ids = build(architecture), tiny.batch(architecture)["input_ids"]
    tiny.perturb(model.attach("a", PREFIX(n_tokens=3)), std=0.5)
    close(in_two_steps(model, ids), model(input_ids=ids).logits[:, ids.shape[1] // 2 :])


def test_a_prompt_is_not_put_behind_a_cache() -> None:
    model, ids = build("llama"), tiny.batch("llama")["input_ids"]
    tiny.perturb(model.attach("a", PROMPT(n_tokens=3)))
    with pytest.raises(TargetError, match="cached forward pass"):
        in_two_steps(model, ids)


def test_a_delta_on_the_output_head_can_be_routed_with_labels_only() -> None:
    model, batch = build("llama"), tiny.batch("llama")
    batch["labels"][0, 3:] = -100  # rows with different numbers of labels
    for seed, name in enumerate(("a", "b")):
        tiny.perturb(model.attach(name, LORA(targets=["lm_head", "query"])), seed=seed)
    parts = {"a": slice(0, 2), "b": slice(2, 4)}
    expected = []
    for name, rows in parts.items():
        model.use(name)
        expected.append(model.labelled_logits(tiny.rows_of(batch, rows))[0])
    with model.routing(parts, 4):
        close(model.labelled_logits(batch)[0], torch.cat(expected))


TIED = [("gpt2", "wte"), ("gpt2", "lm_head"), ("t5", "lm_head"), ("t5", "encoder.embed_tokens"),
        ("bart", "lm_head"), ("bart", "decoder.embed_tokens")]  # fmt: skip


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(("architecture", "target"), TIED)
def test_a_delta_of_one_of_two_tied_modules_is_folded_into_it_alone(
    architecture: str, target: str, copied: bool, tmp_path: Path
) -> None:
    """An embedding that is the output head as well: the merged model has a table for each, and keeps both."""
    model, batch = build(architecture), tiny.batch(architecture)
    path = next(path for path in model.view.modules if f".{path}".endswith(f".{target}"))
    if copied:
        adapter = model.attach("a", METHODS.get("ln_tuning")(), heads=[path])
    else:
        adapter = model.attach("a", LORA(targets=[path]))
    before = model.base.state_dict()
    tiny.perturb(adapter)
    merged: Any = model.merged()
    close(merged(**batch).logits, model(**batch).logits)
    merged.save_pretrained(tmp_path)
    close(type(merged).from_pretrained(tmp_path).eval()(**batch).logits, model(**batch).logits)
    with model.using():
        assert model.base.config.tie_word_embeddings
        assert all(torch.equal(before[key], value) for key, value in model.base.state_dict().items())


def test_deltas_of_tied_modules_are_folded_with_weights() -> None:
    model, batch = build("gpt2"), tiny.batch("gpt2")
    tiny.perturb(model.attach("a", LORA(targets=["wte"])), seed=1)
    tiny.perturb(model.attach("b", LORA(targets=["lm_head", "query"])), seed=2)
    model.use({"a": 0.3, "b": 0.6})
    close(model.merged()(**batch).logits, model(**batch).logits)


def test_fully_trained_tied_weights_stay_tied_in_the_merged_model() -> None:
    model, batch = build("gpt2"), tiny.batch("gpt2")
    tiny.perturb(model.attach("a", FULL()))
    merged: Any = model.merged()
    close(merged(**batch).logits, model(**batch).logits)
    assert merged.lm_head.weight is merged.transformer.wte.weight
    assert merged.config.tie_word_embeddings


def test_merging_keeps_checkpointing_and_modes_as_they_were() -> None:
    model, batch = build("bart"), tiny.batch("bart")
    tiny.perturb(model.attach("a", LORA()))
    model.train()
    model.gradient_checkpointing()
    modes = [(name, module.training) for name, module in model.named_modules()]
    merged = model.merged()
    assert [(name, module.training) for name, module in model.named_modules()] == modes
    assert not any(module.training for module in merged.modules())
    assert not any("_gradient_checkpointing_func" in module.__dict__ for module in merged.modules())
    close(AdaptedModel(merged).labelled_logits(batch)[0], model.labelled_logits(batch)[0])


def test_checkpointing_can_be_taken_off_in_the_middle_of_training() -> None:
    model = AdaptedModel(tiny.model("bart", dropout=0.2))
    before = anatomy(model.base)
    model.train()
    model.gradient_checkpointing()
    model.gradient_checkpointing(False)
    assert anatomy(model.base) == before
    batch = tiny.batch("bart")
    assert torch.equal(model.labelled_logits(batch)[0], model.labelled_logits(batch)[0])


def test_a_base_without_layers_to_recompute_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    monkeypatch.setattr(model.base, "supports_gradient_checkpointing", False)
    with pytest.raises(TargetError, match="recomputed"):
        model.gradient_checkpointing()


def test_labels_need_a_language_model_head() -> None:
    model = build("vit")
    with pytest.raises(ModelError, match="head"):
        model.labelled_logits(tiny.batch("vit") | {"labels": torch.ones(4, 3, dtype=torch.long)})


def test_a_new_model_is_in_eval_mode() -> None:
    assert not any(module.training for module in build("bert").modules())


def test_keys_and_values_of_a_method_are_its_own() -> None:
    with pytest.raises(NotImplementedError):
        KeysValues()()
    with pytest.raises(NotImplementedError):
        Prompt()()


def test_saving_needs_one_adapter(tmp_path: object) -> None:
    model = build("llama")
    with pytest.raises(AdapterError, match="0 adapters"):
        model.save(str(tmp_path) + "/x")


def test_adapters_outlive_a_copy_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build("llama"), tiny.batch("llama")
    tiny.perturb(model.attach("a", LORA()))
    model.gradient_checkpointing()
    expected = model.labelled_logits(batch)[0]

    def fail(_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("deltatune.core.model.copy.deepcopy", fail)
        with pytest.raises(MemoryError):
            model.merged()
    assert model.active == ("a",)
    assert model.fast.recomputation.enabled
    assert torch.equal(model.labelled_logits(batch)[0], expected)


def test_two_models_do_not_share_the_attention_of_one_base() -> None:
    base, batch = tiny.model("llama"), tiny.batch("llama")
    one, two = AdaptedModel(base), AdaptedModel(base)
    tiny.perturb(one.attach("a", PREFIX(n_tokens=3)))
    expected = one.labelled_logits(batch)[0]
    one.use()
    with pytest.raises(TargetError, match="another AdaptedModel"):
        two.attach("b", PREFIX(n_tokens=3))
    one.use("a")
    assert torch.equal(one.labelled_logits(batch)[0], expected)
    one.detach("a")
    two.attach("b", PREFIX(n_tokens=3))


def test_a_copied_embedding_gets_token_ids() -> None:
    model, batch = build("llama"), tiny.batch("llama")
    expected = model.labelled_logits(batch)[0]
    model.attach("a", LORA(), heads=["model.embed_tokens"])
    close(model.labelled_logits(batch)[0], expected)


def test_a_batch_without_labels_has_no_loss() -> None:
    model, batch = build("llama"), tiny.batch("llama")
    model.attach("a", LORA(targets=("all-linear",), dropout=0.1))
    batch["labels"][:] = -100
    assert float(summed_loss(model.train(), batch, "causal-lm").detach()) == 0.0


@pytest.mark.parametrize("tied", [True, False])
def test_scaled_embeddings_scale_the_update(tied: bool) -> None:
    """Gemma multiplies what it finds in its table; the update is of the table, as in peft."""
    size = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "pad_token_id": 0}
    torch.manual_seed(0)
    base = GemmaForCausalLM(GemmaConfig(**size, **heads, tie_word_embeddings=tied)).eval()
    theirs = get_peft_model(
        copy.deepcopy(base), PeftConfig(r=4, target_modules=["embed_tokens"], init_lora_weights=False)
    )
    model = AdaptedModel(base)
    delta = model.attach("a", LORA(r=4, alpha=8, targets=["embed_tokens"])).deltas["model.embed_tokens"]
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_" in name:
                getattr(delta, name.split(".")[-2]).copy_(value)
    ids = torch.randint(3, 48, (2, 6))
    close(model(input_ids=ids).logits, theirs.eval()(ids).logits)
    close(model.merged()(ids).logits, model(input_ids=ids).logits)


def test_an_adalora_whose_schedule_never_ran_is_saved_with_a_warning(tmp_path: Path) -> None:
    model = build("t5")
    adapter = model.attach("a", METHODS.get("adalora")(init_r=3, target_r=2, tinit=1, tfinal=1, interval=1))
    with pytest.warns(UserWarning, match="has not run to its end"):
        model.save(tmp_path / "a")
    adapter.start(4)
    for step in range(1, 5):
        for _, parameter in adapter.trainable():
            parameter.grad = torch.ones_like(parameter)
        adapter.after_step(step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "b")


def test_what_is_no_model_stays_as_it_is() -> None:
    for other in (nn.Linear(2, 2), build("llama")):
        before = [parameter.requires_grad for parameter in other.parameters()]
        with pytest.raises(ModelError, match="not a model of Transformers"):
            AdaptedModel(other)
        assert [parameter.requires_grad for parameter in other.parameters()] == before


def test_learned_keys_are_not_lost_in_a_copy() -> None:
    model, batch = build("llama"), tiny.batch("llama")
    model.attach("a", PREFIX())
    with pytest.raises(AdapterError, match="cannot be copied"):
        copy.deepcopy(model)
    model.detach("a")
    tiny.perturb(model.attach("b", LORA()))
    close(copy.deepcopy(model).labelled_logits(batch)[0], model.labelled_logits(batch)[0])
