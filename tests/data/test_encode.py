from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deltatune.data import pixels
from deltatune.data.encode import Encoder
from deltatune.data.rows import Row
from deltatune.errors import DataError
from deltatune.models.processor import ModelFacts
from deltatune.recipe import ColumnsSpec, DataSpec
from deltatune.tasks.task import IGNORED
from deltatune.testing.tiny_tokenizers import Kind, tiny_tokenizer

TOKENIZERS = {
    kind: tiny_tokenizer(kind, chat=kind == "llama") for kind in ("t5", "bart", "llama", "gpt2", "bert")
}
PLAIN = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(str.strip)


def make(task: str, kind: Kind, labels: list[str] | None = None, **spec: Any) -> Encoder:
    return Encoder(task, TOKENIZERS[kind], DataSpec(source="rows.jsonl", **spec), labels)


def row(text: str, target: str = "", row_id: str = "7") -> Row:
    return Row(row_id, text, target, {})


@pytest.mark.parametrize("kind", ["t5", "bart"])
@given(target=PLAIN, limit=st.integers(2, 12))
def test_a_target_has_one_end_token_and_it_is_the_last(kind: Kind, target: str, limit: int) -> None:
    encoder = make("text-to-text", kind, max_target_tokens=limit)
    try:
        encoded = encoder.encode([row("a table", target)])
    except DataError:
        assert limit == 2  # BART's begin and end tokens leave no place for the text
        assert kind == "bart"
        return
    labels = encoded.features[0]["labels"]
    assert labels.count(encoder.eos_ids[0]) == 1
    assert labels[-1] == encoder.eos_ids[0]
    assert len(labels) <= limit
    whole = TOKENIZERS[kind](target, add_special_tokens=False)["input_ids"]
    room = limit - 1 - (kind == "bart")
    assert encoded.report.truncated_targets == (len(whole) > room)
    assert encoder.decode(labels) == TOKENIZERS[kind].decode(whole[:room]).strip()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@given(prompt=PLAIN, target=PLAIN)
def test_what_is_supervised_is_the_target_exactly(kind: Kind, prompt: str, target: str) -> None:
    encoder = make("causal-lm", kind, max_target_tokens=400)
    batch = encoder.collate(encoder.encode([row(prompt, target), row("short", "x y z w" * 9)]).features)
    labels = batch["labels"][0]
    supervised = labels[labels != IGNORED].tolist()
    assert supervised[-1] == encoder.eos_ids[0]
    assert supervised.count(encoder.eos_ids[0]) == 1
    assert TOKENIZERS[kind].decode(supervised[:-1]) == target
    assert torch.equal(batch["input_ids"][0][labels != IGNORED], labels[labels != IGNORED])


@pytest.mark.parametrize(("kind", "begins"), [("llama", 1), ("gpt2", 0)])
@pytest.mark.parametrize("text", ["the quick fox", "<s>the quick fox"])
def test_a_prompt_has_as_many_begin_tokens_as_the_tokenizer_adds(kind: Kind, begins: int, text: str) -> None:
    encoder = make("causal-lm", kind)
    ids = encoder.encode([row(text, "x")]).features[0]["input_ids"]
    assert ids[:-1].count(TOKENIZERS[kind].bos_token_id) == begins


def test_an_end_token_written_in_a_target_is_not_taught_twice() -> None:
    encoder = make("text-to-text", "t5")
    labels = encoder.encode([row("a", "fox</s> dog</s>")]).features[0]["labels"]
    assert labels.count(1) == 1
    assert encoder.decode(labels) == "fox dog"


def test_the_end_token_is_learned_though_batches_are_padded_with_it() -> None:
    encoder = make("causal-lm", "gpt2")
    assert encoder.pad_id == encoder.eos_ids[0]
    batch = encoder.collate(
        encoder.encode([row("a", "b"), row("a much longer prompt", "a long target")]).features
    )
    for labels, mask in zip(batch["labels"], batch["attention_mask"], strict=True):
        assert (labels == encoder.eos_ids[0]).sum() == 1
        assert (labels[mask == 0] == IGNORED).all()


def test_prompts_are_the_training_prompts_padded_on_the_left() -> None:
    encoder = make("causal-lm", "llama")
    features = encoder.encode([row("fox", "dog"), row("the quick brown fox", "dog")]).features
    prompts = encoder.collate_prompts(features)
    for feature, ids, mask in zip(features, prompts["input_ids"], prompts["attention_mask"], strict=True):
        prompt = feature["input_ids"][: feature["prompt_length"]]
        assert ids[mask == 1].tolist() == prompt
        assert ids[-1] == prompt[-1]
        assert ids[mask == 0].eq(encoder.pad_id).all()


def test_a_long_prompt_loses_its_left_the_same_whatever_its_target() -> None:
    encoder = make("causal-lm", "llama", max_input_tokens=8)
    words = " ".join(str(number) for number in range(30))
    encoded = encoder.encode([row(words, "a"), row(words, "a much longer target")])
    first, second = (feature["input_ids"][: feature["prompt_length"]] for feature in encoded.features)
    assert first == second
    assert len(first) == 8
    assert first[0] == TOKENIZERS["llama"].bos_token_id
    assert encoder.decode(first).endswith("28 29")
    assert encoded.report.truncated_inputs == 2


def test_long_inputs_keep_their_end_token_and_are_counted() -> None:
    encoder = make("text-to-text", "t5", max_input_tokens=6)
    encoded = encoder.encode(
        [row("the quick brown fox jumps over the lazy dog" * 3, "dog"), row("fox", "dog")]
    )
    assert len(encoded.features[0]["input_ids"]) == 6
    assert encoded.features[0]["input_ids"][-1] == 1
    assert (encoded.report.truncated_inputs, encoded.report.truncated_targets) == (1, 0)


def test_the_report_counts_what_the_loss_will_count() -> None:
    for task, kind in (("text-to-text", "t5"), ("causal-lm", "llama")):
        encoder = make(task, kind)
        encoded = encoder.encode([row("fox", "dog"), row("the quick fox", "the lazy dog")])
        labels = encoder.collate(encoded.features)["labels"]
        counted = labels if task == "text-to-text" else labels[:, 1:]
        assert encoded.report.supervised_tokens == (counted != IGNORED).sum()
        assert encoded.lengths[0] < encoded.lengths[1]


def test_plain_text_is_supervised_throughout() -> None:
    encoder = make("causal-lm", "llama", columns=ColumnsSpec(target=None), max_input_tokens=6)
    encoded = encoder.encode([row("fox"), row("the quick brown fox jumps over the lazy dog")])
    short, long = encoder.collate(encoded.features)["labels"]
    assert short[0] == 1
    assert short[short != IGNORED][-1] == 2
    assert (long != IGNORED).all()
    assert 2 not in long.tolist()  # it was cut: the text does not end here
    with pytest.raises(DataError, match="no prompt"):
        encoder.collate_prompts(encoded.features)


def test_chat_turns_have_one_begin_token_and_lose_only_the_users_text() -> None:
    encoder = make("causal-lm", "llama", template="chat", max_input_tokens=30)
    text = "".join(f"{number} über 😀 " for number in range(40))
    encoded = encoder.encode([row(text, "dog"), row("fox", "dog")])
    for feature in encoded.features:
        prompt = feature["input_ids"][: feature["prompt_length"]]
        shown = TOKENIZERS["llama"].decode(prompt)
        assert len(prompt) <= 30
        assert prompt.count(1) == 1
        assert shown.startswith("<s>user: ")
        assert shown.endswith("\nassistant: ")
    assert encoded.report.truncated_inputs == 1
    with pytest.raises(DataError, match="leaves no room"):
        make("causal-lm", "llama", template="chat", max_input_tokens=4).encode([row(text, "dog")])
    with pytest.raises(DataError, match="no chat template"):
        make("causal-lm", "gpt2", template="chat").encode([row(text, "dog")])


def test_a_row_that_teaches_nothing_is_refused_by_its_id() -> None:
    for task, kind in (("text-to-text", "t5"), ("causal-lm", "llama")):
        for target in ("", "</s>"):
            with pytest.raises(DataError, match=r"row bad.*nothing to learn"):
                make(task, kind).encode([row("fox", "dog"), row("fox", target, "bad")])
    with pytest.raises(DataError, match="fewer than two tokens"):
        make("causal-lm", "gpt2", columns=ColumnsSpec(target=None), max_input_tokens=4).encode([row("")])


def test_prediction_needs_no_target() -> None:
    encoder = make("causal-lm", "llama")
    with_target = encoder.encode([row("fox", "dog")])
    without = encoder.encode([row("fox")], supervised=False)
    expected = encoder.collate_prompts(with_target.features)["input_ids"]
    assert torch.equal(encoder.collate_prompts(without.features)["input_ids"], expected)
    assert without.report.supervised_tokens == 0
    classes = make("text-classification", "bert", ["cat", "dog"])
    assert "labels" not in classes.collate(classes.encode([row("fox")], supervised=False).features)


def test_classes_are_indices_in_the_order_of_labels() -> None:
    encoder = make("text-classification", "bert", ["cat", "dog"])
    encoded = encoder.encode([row("a", "dog"), row("the quick fox", "cat")])
    batch = encoder.collate(encoded.features)
    assert batch["labels"].tolist() == [1, 0]
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"][0].sum() == len(encoded.features[0]["input_ids"])
    with pytest.raises(DataError, match=r"row 7.*'cow'.*cat, dog"):
        encoder.encode([row("a", "cow")])


def test_end_tokens_of_the_config_stop_too_and_a_missing_one_is_refused() -> None:
    spec = DataSpec(source="rows.jsonl")
    of_model = ModelFacts(end_ids=(5, 2))
    assert Encoder("causal-lm", TOKENIZERS["llama"], spec, None, of_model).eos_ids == [2, 5]
    with pytest.raises(DataError, match="no end token"):
        Encoder("causal-lm", TOKENIZERS["bert"], spec)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatty(turns: str, **spec: Any) -> Encoder:
    """A chat model whose turns end with another token than its texts."""
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = turns
    return Encoder("causal-lm", tokenizer, DataSpec(source="rows.jsonl", **spec))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        ("{% for m in messages %}{{ m['content'] }} </s>{% endfor %}", "</s>"),
        ("{% for m in messages %}<s>{{ m['content'] }}\n{% endfor %}", "</s>"),
        ("{% if messages|length > 1 %}{{ raise_exception('one turn') }}{% endif %}U", "</s>"),
    ],
)
def test_a_chat_model_is_taught_the_end_of_a_turn_that_its_template_writes(template: str, end: str) -> None:
    encoder = chatty(template, template="chat")
    taught = encoder.encode([row("fox", "dog")]).features[0]["input_ids"][-1]
    assert encoder.processor.convert_ids_to_tokens(taught) == end
    assert encoder.eos_ids[0] == taught
    assert encoder.processor.eos_token_id in encoder.eos_ids, "the end of a text stops it as well"
    plain = chatty(template)
    assert plain.encode([row("fox", "dog")]).features[0]["input_ids"][-1] == encoder.processor.eos_token_id


def test_references_lack_the_special_tokens_that_predictions_lack() -> None:
    for task, kind in (("text-to-text", "t5"), ("causal-lm", "llama")):
        encoder = make(task, kind)
        target = "the fox</s> and <unk>a dog"
        encoded = encoder.encode([row("a", target), row("b", "the fox")])
        ids = encoded.features[0].get("labels") or encoded.features[0]["input_ids"]
        ids = ids[encoded.features[0].get("prompt_length", 0) :]
        assert encoder.decode(ids) == encoder.reference(target) == "the fox and a dog"
        assert encoder.reference(" the  fox ") == " the  fox ", "other targets are left as they are"
        [said] = encoded.report.fidelity.warnings(2, "test")
        assert said.startswith("1 of 2 test targets have special tokens")
        assert "row 7: 'the fox</s> and <unk>a dog'" in said


def words(normalizer: Any = None) -> Any:
    """A tokenizer that knows a few words and nothing else."""
    inner: Any = Tokenizer(
        models.WordLevel({"</s>": 0, "<unk>": 1, "a": 2, "b": 3, "2": 4}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer is not None:
        inner.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("task", ["text-to-text", "causal-lm"])
def test_targets_that_the_tokenizer_cannot_write_are_counted_and_shown(task: str) -> None:
    encoder = Encoder(task, words(normalizers.NFKC()), DataSpec(source="rows.jsonl"))
    rows = [row("a", "a b", "1"), row("{a}", "{ a }", "2"), row("a", "a ²", "3"), row("a", "a\nb", "4")]
    rows.append(row("a", "<unk> a", "5"))  # as some data sets write it themselves
    fidelity = encoder.encode(rows).report.fidelity
    unknown, altered, special, inputs = fidelity.warnings(5, "training", " of words")
    assert "1 of 5 training targets have characters that the tokenizer of words does not know" in unknown
    assert "row 2: '{ a }' comes out as 'a'" in unknown
    assert "2 of 5 training targets come back" in altered
    assert "row 3: 'a ²' comes out as 'a 2'" in altered
    assert "row 5: '<unk> a'" in special
    assert "1 of 5 training inputs have characters" in inputs
    fidelity.require_writable(2)
    long = encoder.encode([row("a", "a b " * 30 + "{ a")]).report.fidelity.unknown_targets.example
    assert long == "row 7: '...b a b a b { a' comes out as '...b a b a b a'"
    with pytest.raises(DataError, match=r"1 of 1 training targets .* row 2: .*use a model|byte-level"):
        fidelity.require_writable(1)


def test_texts_that_are_learned_as_they_are_must_be_writable_too() -> None:
    spec = DataSpec(source="rows.jsonl", columns=ColumnsSpec(target=None))
    report = Encoder("causal-lm", words(), spec).encode([row("{ a }"), row("a b")]).report
    assert report.fidelity.unknown_targets.rows == 1
    assert report.fidelity.unknown_inputs.rows == 0


def test_a_tokenizer_that_knows_every_byte_loses_nothing() -> None:
    texts = [row("{", '{"a": 1}'), row("你好", "你好\n- a\n\tb"), row("a", "x  y")]
    for kind in ("t5", "bart", "gpt2", "llama"):
        task = "causal-lm" if kind in ("gpt2", "llama") else "text-to-text"
        assert make(task, kind).encode(texts).report.fidelity.warnings(3, "training") == []


def test_a_token_without_an_embedding_is_an_error_of_its_row() -> None:
    spec = DataSpec(source="rows.jsonl")
    vocabulary = len(TOKENIZERS["llama"])
    tokenizer = tiny_tokenizer("llama")
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    encoder = Encoder("causal-lm", tokenizer, spec, None, ModelFacts(vocabulary=vocabulary))
    encoder.encode([row("a", "b")])
    with pytest.raises(DataError, match=rf"row 7: has the token '\[PAD\]' \({vocabulary}\)"):
        encoder.encode([row("a [PAD] b", "c")])


def test_preview_marks_what_is_supervised() -> None:
    for task, kind in (("text-to-text", "t5"), ("causal-lm", "llama")):
        encoder = make(task, kind)
        shown = encoder.preview(encoder.encode([row("fox", "lazy dog")]).features[0])
        text = "".join(piece for piece, supervised in shown if supervised)
        assert text.replace("Ġ", " ") == "lazy dog</s>"
        assert any(not supervised for _, supervised in shown)
    encoder = make("text-classification", "bert", ["cat", "dog"])
    assert encoder.preview(encoder.encode([row("fox", "dog")]).features[0])[-1] == ("dog", True)


@pytest.fixture
def image_encoder() -> Encoder:
    from transformers import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    return Encoder("image-classification", processor, DataSpec(source="images.npz"), ["0", "1"])


def test_images_of_any_shape_become_pixels(image_encoder: Encoder, tmp_path: Any) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    grey = generator.integers(0, 255, (28, 20), dtype=np.uint8)
    rgba = generator.integers(0, 255, (9, 9, 4), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    inputs = [grey, grey[:, :, None], np.stack([grey] * 3, axis=-1), tmp_path / "grey.png", rgba]
    rows = [Row(str(index), image, "1", {}) for index, image in enumerate(inputs)]
    batch = image_encoder.collate(image_encoder.encode(rows).features)
    assert batch["pixel_values"].shape == (5, 3, 32, 32)
    assert batch["pixel_values"].dtype == torch.float32
    for index in range(1, 4):
        assert torch.equal(batch["pixel_values"][0], batch["pixel_values"][index])
    assert batch["labels"].tolist() == [1] * 5


def test_files_kept_resized_give_the_same_pixels(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image
    from transformers import BitImageProcessorPil, ViTImageProcessorPil

    generator = np.random.default_rng(0)
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(files):
        Image.fromarray(generator.integers(0, 255, (40 + index, 60, 3), dtype=np.uint8)).save(path)
    for processor in (
        ViTImageProcessorPil(size={"height": 32, "width": 32}),
        BitImageProcessorPil(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
    ):
        whole = processor(images=[Image.open(path) for path in files], return_tensors="pt")["pixel_values"]
        for budget, kept in ((2**20, 3), (4000, 2), (0, 0)):
            monkeypatch.setattr(pixels, "KEPT_BYTES", budget)
            encoder = Encoder("image-classification", processor, DataSpec(source="x"), ["0", "1"])
            encoded = encoder.encode([Row(path.name, path, "0", {}) for path in files])
            assert sum(feature["resized"] is not None for feature in encoded.features) == kept
            assert torch.equal(encoder.collate(encoded.features)["pixel_values"], whole)


def test_a_broken_image_is_found_when_encoding_with_its_path(image_encoder: Encoder, tmp_path: Any) -> None:
    from PIL import Image

    good = tmp_path / "good.png"
    Image.fromarray(np.arange(30000, dtype=np.uint8).reshape(100, 100, 3)).save(good)
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(DataError, match=name):
            image_encoder.encode([Row("a", good, "0", {}), Row("b", tmp_path / name, "0", {})])
    with pytest.raises(DataError, match="cannot be read"):
        image_encoder.encode([Row("a", tmp_path / "absent.png", "0", {})])
