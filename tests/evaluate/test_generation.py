from __future__ import annotations

import pytest
import torch

from deltatune.evaluation import Generation, generate
from deltatune.evaluation.generation import _finish

from .conftest import EOS, Encoded, NumberEncoder


def texts(case, **options):
    return dict(generate(case.model, case.encoded, case.encoder, **options))


@pytest.mark.parametrize("name", ["t5", "bart", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_batched_equals_one_by_one(make_case, name, beams):
    """Right only if padding (on the left for Llama) is masked and positions are counted from the text."""
    case = make_case(name)
    batched = texts(case, batch_size=4, max_new_tokens=9, num_beams=beams)
    single = texts(case, batch_size=1, max_new_tokens=9, num_beams=beams)
    assert batched == single
    assert len({generation.text for generation in single.values()}) > 1


@pytest.mark.parametrize(
    "penalty", [("encoder_repetition_penalty", 50.0), ("exponential_decay_length_penalty", (0, 5.0))]
)
def test_penalties_of_a_checkpoint_do_not_act(make_case, penalty):
    case = make_case("t5")
    plain = texts(case, batch_size=7, max_new_tokens=8)
    setattr(case.model.base.generation_config, *penalty)
    assert texts(case, batch_size=7, max_new_tokens=8) == plain


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_equals_a_loop_without_cache(make_case, name):
    case = make_case(name)
    base, row = case.model.base, 4
    ids = torch.tensor([case.encoded.features[row]["input_ids"]])
    out = torch.zeros(1, 1, dtype=torch.long) if name == "t5" else ids
    expected = []
    with torch.no_grad():
        for _ in range(8):
            logits = base(input_ids=ids, decoder_input_ids=out) if name == "t5" else base(input_ids=out)
            token = logits.logits[0, -1].argmax()
            if token == EOS:
                break
            expected.append(int(token))
            out = torch.cat([out, token.view(1, 1)], dim=1)
    found = texts(case, batch_size=7, max_new_tokens=8)[row]
    assert found.text == " ".join(map(str, expected))
    assert found.tokens == len(expected)
    assert found.stopped == (len(expected) < 8)


def test_longest_first_and_every_row_once(make_case):
    case = make_case("llama")
    progress = []
    found = list(
        generate(
            case.model, case.encoded, case.encoder, batch_size=3, max_new_tokens=2,
            progress=lambda done, total: progress.append((done, total)),
        )
    )  # fmt: skip
    lengths = [case.encoded.lengths[row] for row, _ in found]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(row for row, _ in found) == list(range(7))
    assert progress == [(3, 7), (6, 7), (7, 7)]


def test_checkpoint_cannot_force_an_end_or_ban_repetition(make_case):
    """The tiny BART's generation config forces EOS at the last position and bans repeated bigrams."""
    case = make_case("bart")
    with torch.no_grad():
        case.model.base.final_logits_bias[:] = 0
        case.model.base.final_logits_bias[0, 7] = 1e4  # the model wants to say 7 for ever
    found = texts(case, batch_size=7, max_new_tokens=6)
    assert {generation.text for generation in found.values()} == {"7 7 7 7 7 7"}
    assert not any(generation.stopped for generation in found.values())


def test_stops_at_each_of_several_ends_even_when_padding_is_an_end():
    encoder = NumberEncoder("text-to-text", eos_ids=(1, 9))
    first = _finish([5, 6, 9, 1, 1], encoder)
    assert (first.text, first.tokens, first.stopped) == ("5 6", 2, True)
    whole = _finish([5, 6, 0, 0, 7], encoder)  # 0 pads in training, but here the model really wrote it
    assert (whole.tokens, whole.stopped) == (5, False)
    assert _finish([9], encoder).text == ""


def test_modes_are_restored_module_by_module(make_case):
    case = make_case("t5")
    delta = torch.nn.Dropout()
    case.model.delta = delta.train()
    case.model.base.eval()
    texts(case, batch_size=7, max_new_tokens=2)
    assert delta.training
    assert not case.model.base.training


def test_generation_cannot_be_made_elsewhere():
    with pytest.raises(TypeError, match="teacher-forced"):
        Generation("a fine text", 3, True)


def test_a_model_that_hides_the_prompt_is_refused(make_case):
    case = make_case("llama")
    generate_ids = case.model.base.generate

    def hiding(**arguments):
        output = generate_ids(**arguments)
        output.sequences = output.sequences[:, arguments["input_ids"].shape[1] :]
        return output

    case.model.base.generate = hiding
    with pytest.raises(RuntimeError, match="prompt"):
        texts(case, batch_size=7, max_new_tokens=4)


def test_no_rows_give_nothing(make_case):
    case = make_case("t5")
    assert not list(generate(case.model, Encoded([], []), case.encoder))
