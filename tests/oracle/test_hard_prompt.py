"""Hard prompts against the untouched model on the text itself; their searches against short references."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_recipe import make_recipe, rows, t5_folder, unpredicted  # noqa: F401  (fixtures)
from torch import Tensor
from torch.nn import functional as F

from deltatune.checkpoint.inspection import inspect
from deltatune.core.model import AdaptedModel
from deltatune.core.readable import Reader
from deltatune.data.tokens import truncated_chat
from deltatune.errors import RecipeError, TargetError
from deltatune.methods.hard_prompt import HardPromptAdapter, HardPromptConfig
from deltatune.recipe import Recipe
from deltatune.testing import tiny
from deltatune.testing.building import close, loss
from deltatune.testing.tiny_tokenizers import tiny_tokenizer
from deltatune.training.single.run import run

TEXTS = ("the quick fox", "In the third quarter, net sales", "medals by nation and year 42$", "jumps")


def base(architecture: str) -> Any:
    """A tiny model with the vocabulary of its tokenizer."""
    model = tiny.model(architecture)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer(architecture)), mean_resizing=False)
    for parameter in (model.get_input_embeddings().weight,):
        parameter.data.normal_(std=0.5)
    return model.eval()


def tokenizer(architecture: str) -> Any:
    made = tiny_tokenizer(architecture)  # type: ignore[arg-type]
    if made.pad_token is None:
        made.pad_token = made.eos_token
    return made


def searched(architecture: str, **settings: Any) -> tuple[AdaptedModel, HardPromptAdapter]:
    model = AdaptedModel(base(architecture), tiny.heads(architecture), processor=tokenizer(architecture))
    adapter = model.attach("a", HardPromptConfig(**{"n_tokens": 4, **settings}), seed=3)
    assert isinstance(adapter, HardPromptAdapter)
    return model, adapter


def answers(model: Any, architecture: str, texts: list[str], side: str = "right") -> list[Tensor]:
    """Logits of each row: of the classes, of decoded tokens, or of those that follow its last text tokens."""
    words = tokenizer(architecture)
    batch = words(texts, return_tensors="pt", padding=True, padding_side=side, return_token_type_ids=False)
    if architecture in ("t5", "bart"):
        decoded = torch.arange(5, 10).expand(len(texts), -1)
        return list(model(**batch, decoder_input_ids=decoded).logits)
    logits = model(**batch).logits
    if architecture == "bert":
        return list(logits)
    return [row[mask.bool()] for row, mask in zip(logits, batch["attention_mask"], strict=True)]


@pytest.mark.parametrize("initial", [None, " quick brown dog over", "Country"])
@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        *((architecture, "right") for architecture in ("t5", "bart", "bert", "llama", "gpt2")),
        *((architecture, "left") for architecture in ("t5", "llama", "gpt2")),  # the others count padding
    ],
)
def test_the_text_before_the_input_does_the_same(architecture: str, initial: str | None, side: str) -> None:
    model, adapter = searched(architecture, initial=initial)
    text = adapter.text()
    assert text is not None
    assert text.isprintable() or text[:-1].isprintable()
    assert initial is None or text.startswith(initial)
    found = answers(model, architecture, list(TEXTS), side)
    with model.using():
        plain = answers(model, architecture, list(TEXTS), side)
        for row, before, given in zip(found, plain, TEXTS, strict=True):
            (expected,) = answers(model, architecture, [text + given], side)
            compared = row if architecture not in ("llama", "gpt2") else row[1:]
            close(compared, expected[-len(compared) :])
            assert (row - before).abs().max() > 1e-3


def test_in_a_chat_the_text_begins_the_turn_of_the_user() -> None:
    words = tokenizer("llama")
    words.chat_template = "<s>user\n{{ messages[0]['content'] }}\nassistant\n"  # as in those of ChatML
    model = AdaptedModel(base("llama"), processor=words)
    adapter = model.attach("a", HardPromptConfig(n_tokens=4))
    assert isinstance(adapter, HardPromptAdapter)
    for given in TEXTS:
        found = model(input_ids=torch.tensor([truncated_chat(words, given, 99)[0]])).logits
        with model.using():
            whole = truncated_chat(words, f"{adapter.text()}{given}", 99)[0]
            expected = model(input_ids=torch.tensor([whole])).logits
        n = len(words(f"{given}\nassistant\n", add_special_tokens=False)["input_ids"])
        close(found[0, -n:], expected[0, -n:])
        assert len(whole) == found.shape[1] + len(adapter.hard.tokens())


@pytest.mark.parametrize("search", ["gcg", "pez"])
def test_generation_from_the_text_is_the_same(search: str) -> None:
    model, adapter = searched("llama", search=search)
    words = tokenizer("llama")
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    batch = words(list(TEXTS), return_tensors="pt", padding=True, padding_side="left")
    found = model.generate(**batch, **options)[:, -5:]
    with model.using():
        for row, given in zip(found, TEXTS, strict=True):
            one = words([adapter.text() + given], return_tensors="pt")
            assert torch.equal(model.generate(**one, **options)[0, -5:], row)


def test_the_gradient_is_that_of_the_embeddings_and_adamw_moves_no_token() -> None:
    model, adapter = searched("t5")
    made = tiny.batch("t5")
    ids = adapter.hard.tokens()
    loss(model.train(), made).backward()
    gradient = adapter.hard.vectors.grad
    plain = base("t5")
    embed = plain.get_input_embeddings()
    leaf = embed(ids).detach().expand(4, -1, -1).clone().requires_grad_()
    states = torch.cat([leaf, embed(made["input_ids"])], 1)
    mask = torch.cat([torch.ones(4, len(ids), dtype=torch.long), made["attention_mask"]], 1)
    logits = plain(inputs_embeds=states, attention_mask=mask, labels=made["labels"]).logits
    F.cross_entropy(logits.flatten(0, 1), made["labels"].flatten(), reduction="sum").backward()
    assert leaf.grad is not None
    close(gradient, leaf.grad.sum(0)[: len(adapter.hard.ids)])
    before = model(**made).logits
    torch.optim.AdamW([adapter.hard.vectors], lr=0.5).step()
    assert torch.equal(adapter.hard.tokens(), ids)
    assert torch.equal(model(**made).logits, before)


def test_gcg_takes_the_best_swap_of_those_that_the_gradient_ranks_high() -> None:
    model, adapter = searched("t5", n_tokens=2, top_k=3, candidates=200)
    made = tiny.batch("t5")

    @torch.no_grad()
    def measured() -> float:
        return float(loss(model, made))

    model.train()
    for step in (1, 2, 3):
        adapter.zero_grad()
        loss(model, made).backward()
        start, before = adapter.hard.ids.clone(), measured()
        table = base("t5").get_input_embeddings().weight.detach()[adapter.hard.allowed]
        assert adapter.hard.vectors.grad is not None
        falls = -(adapter.hard.vectors.grad @ table.T)
        losses = {tuple(start.tolist()): before}
        for place in range(2):
            for choice in falls[place].argsort(descending=True)[:3]:
                trial = start.clone()
                trial[place] = adapter.hard.allowed[choice]
                adapter.hard.ids.copy_(trial)
                losses[tuple(trial.tolist())] = measured()
        adapter.hard.ids.copy_(start)
        adapter.before_step(step, measured)
        assert tuple(adapter.hard.ids.tolist()) == min(losses, key=losses.__getitem__)
        assert measured() <= before
    assert adapter.after_step(3)["swaps"] >= 1


def test_with_fluency_swaps_are_judged_by_loss_and_likelihood() -> None:
    made = tiny.batch("llama")
    found = {}
    for weight in (0.0, 5.0):
        model, adapter = searched("llama", n_tokens=4, fluency=weight, candidates=40)

        @torch.no_grad()
        def measured(model: AdaptedModel = model) -> float:
            return float(loss(model, made)) / 100

        def surprise(adapter: HardPromptAdapter = adapter) -> float:
            ids = adapter.hard.ids
            log_p = base("llama")(input_ids=ids[None]).logits[0].detach().log_softmax(-1)
            return -float(sum(log_p[i, ids[i + 1]] for i in range(3))) / 3

        model.train()
        for step in range(1, 6):
            adapter.zero_grad()
            loss(model, made).backward()
            before = measured() + weight * surprise()
            adapter.before_step(step, measured)
            assert measured() + weight * surprise() <= before + 1e-5
        found[weight] = surprise()
    assert found[5.0] < found[0.0]


@pytest.mark.parametrize("settings", [{"fluency": 0.05}, {"search": "pez"}, {"candidates": 8, "top_k": 4}])
def test_what_was_found_is_a_valid_configuration(settings: dict[str, Any]) -> None:
    _, adapter = searched("llama", **settings)
    found = adapter.config.for_inference(adapter)
    assert HardPromptConfig.model_validate(found.model_dump()) == found


def test_only_language_models_judge_how_a_text_reads() -> None:
    with pytest.raises(TargetError, match="cannot tell how a text reads"):
        searched("bert", fluency=1.0)
    with pytest.raises(RecipeError, match="judges swaps"):
        HardPromptConfig(search="pez", fluency=1.0)


def test_pez_is_adamw_on_vectors_with_the_gradient_of_the_nearest_tokens() -> None:
    model, adapter = searched("t5", search="pez")
    made = tiny.batch("t5")
    table = base("t5").get_input_embeddings().weight.detach()
    allowed = adapter.hard.allowed
    own = torch.optim.AdamW([adapter.hard.vectors], lr=0.3)
    vectors = adapter.hard.vectors.detach().clone().requires_grad_()
    theirs = torch.optim.AdamW([vectors], lr=0.3)
    plain, seen = AdaptedModel(base("t5")), set()
    for _ in range(4):
        nearest = [
            int(allowed[F.cosine_similarity(v[None], table[allowed]).argmax()]) for v in vectors.detach()
        ]
        seen.add(tuple(nearest))
        assert adapter.hard.tokens().tolist() == [*nearest, *adapter.hard.end.tolist()]
        own.zero_grad()
        loss(model, made).backward()
        own.step()
        leaf = table[torch.tensor([*nearest, *adapter.hard.end.tolist()])].requires_grad_()
        states = torch.cat([leaf.expand(4, -1, -1), table[made["input_ids"]]], 1)
        mask = torch.cat(
            [torch.ones(states.shape[:2], dtype=torch.long)[:, : len(leaf)], made["attention_mask"]], 1
        )
        logits = plain.base(inputs_embeds=states, attention_mask=mask, labels=made["labels"]).logits
        F.cross_entropy(logits.flatten(0, 1), made["labels"].flatten(), reduction="sum").backward()
        assert leaf.grad is not None
        vectors.grad = leaf.grad[: len(nearest)].clone()
        theirs.step()
        close(adapter.hard.vectors, vectors)
    assert len(seen) > 1


@pytest.mark.parametrize("architecture", ["t5", "bart", "bert", "llama", "gpt2"])
def test_words_read_back_and_hold_nothing_special(architecture: str) -> None:
    words = tokenizer(architecture)
    reader = Reader(words)
    found = reader.words(len(words))
    assert len(found) > 20
    assert not set(found) & set(words.all_special_ids)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        ids = [found[int(i)] for i in torch.randint(len(found), (6,), generator=generator)]
        assert reader.reads_back(ids)
        assert reader.text(ids).isprintable()
    begin = {"t5": (), "bart": ((0,),), "bert": ((2,),), "llama": ((1,),), "gpt2": ()}
    assert reader.beginnings == begin[architecture]
    chat = Reader(tiny_tokenizer("llama", chat=True)).beginnings
    assert (1,) in chat
    assert tuple(words("<s>user: ", add_special_tokens=False)["input_ids"]) in chat or architecture != "llama"


@pytest.mark.parametrize("search", ["gcg", "pez", "none"])
def test_files_hold_the_text_and_need_no_tokenizer(search: str, tmp_path: Path) -> None:
    model, adapter = searched("bert", search=search, initial=" quick dog" if search == "none" else None)
    inputs = tokenizer("bert")(list(TEXTS), return_tensors="pt", padding=True, return_token_type_ids=False)
    before = model(**inputs).logits
    model.save(tmp_path / "delta")
    found = inspect(tmp_path / "delta")
    assert found.config["text"] == adapter.text()
    assert found.parameters == len(adapter.hard.tokens()) + sum(
        p.numel() for p in adapter.deltas["classifier"].parameters()
    )
    fresh = AdaptedModel(base("bert"), tiny.heads("bert"))
    fresh.load(tmp_path / "delta", "again")
    assert torch.equal(fresh(**inputs).logits, before)
    assert fresh.adapter("again").describe() == adapter.describe() == f"prompt {adapter.text()!r}"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(TargetError, match="hard prompt is text"):
        AdaptedModel(tiny.model("vit"), tiny.heads("vit")).attach("a", HardPromptConfig())
    with pytest.raises(TargetError, match="tokenizer"):
        AdaptedModel(tiny.model("t5")).attach("a", HardPromptConfig(initial="the"))
    with pytest.raises(RecipeError, match="initial"):
        HardPromptConfig(search="none")


class Lines:
    """An observer that keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@pytest.mark.parametrize("search", ["gcg", "pez"])
def test_a_run_prints_the_prompt(
    make_recipe: Callable[..., Recipe],  # noqa: F811
    search: str,
    tmp_path: Path,
) -> None:
    recipe = make_recipe(methods=[{"hard_prompt": {"n_tokens": 3, "search": search, "candidates": 4}}])
    observer = Lines()
    result = run(recipe, recipe.methods[0], 0, tmp_path / "run", observer=observer)  # type: ignore[arg-type]
    assert any(result.description in line for line in observer.lines)
    saved = json.loads((tmp_path / "run/adapter/deltatune.json").read_text())["config"]
    assert result.description == f"prompt {saved['text']!r}"
    assert result.method_result["reads_back"] == 1
