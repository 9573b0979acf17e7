from __future__ import annotations

import copy
import threading

import torch
from torch import nn

from deltatune.models import fingerprint as module
from deltatune.models.fingerprint import checksum, fingerprint, fingerprint_beside


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def test_same_weights_same_fingerprint():
    model = network()
    assert fingerprint(model) == fingerprint(copy.deepcopy(model))
    assert len(fingerprint(model)) == 64


def test_every_tensor_counts():
    model = network()
    before = fingerprint(model)
    for tensor in [*model.parameters(), *model.buffers()]:
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.view(-1)[-1] += 1
            assert fingerprint(model) != before
            tensor.copy_(kept)
    assert fingerprint(model) == before


def test_type_and_name_count():
    model = network()
    assert fingerprint(copy.deepcopy(model).to(torch.bfloat16)) != fingerprint(model)
    assert fingerprint(nn.ModuleDict({"a": nn.Identity(), "b": model})) != fingerprint(model)


def test_memory_layout_and_chunks_do_not_count(monkeypatch):
    model = network()
    before = fingerprint(model)
    monkeypatch.setattr(module, "_CHUNK", 2)
    assert fingerprint(model) == before
    model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
    assert not model[0].weight.is_contiguous()
    assert fingerprint(model) == before


def test_tied_weights_differ_from_equal_ones():
    def pair(*, tied: bool) -> nn.Module:
        model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
        if tied:
            model[1].weight = model[0].weight
        else:
            model[1].weight = nn.Parameter(model[0].weight.detach().clone())
        return model

    torch.manual_seed(0)
    tied = pair(tied=True)
    torch.manual_seed(0)
    untied = pair(tied=False)
    assert torch.equal(tied[1].weight, untied[1].weight)
    assert fingerprint(tied) != fingerprint(untied)


def test_beside_other_work_it_is_of_what_the_model_held_when_asked(monkeypatch):
    """`Module.to` gives parameters other contents, and full fine-tuning puts others in their places."""
    model, go, digest = network(), threading.Event(), module._digest
    before = fingerprint(model)
    monkeypatch.setattr(module, "_digest", lambda *given: go.wait(10) and digest(*given))
    found = fingerprint_beside(model)
    model[0].weight.data = torch.zeros(4, 3)
    model[2].weight = nn.Parameter(torch.zeros(3, 4))
    assert not found.done()
    go.set()
    assert found.result() == before


def large() -> nn.Module:
    """Tensors of more words than the checksum has columns, and one that begins within a word."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 300), nn.Linear(300, 8).bfloat16(), nn.BatchNorm1d(3))
    model.register_buffer("cut", torch.randn(40_001)[1:].bfloat16()[1:])
    return model


def test_the_checksum_finds_whatever_is_written_into_a_base():
    """Also where torch counts no version: through `.data`, and through an array that shares the memory."""
    model = large()
    before = checksum(model)
    assert checksum(copy.deepcopy(model)) == before
    for tensor in [*model.parameters(), *model.buffers()]:
        kept, version = tensor.detach().clone(), tensor._version
        for place in (0, tensor.numel() // 2, -1):
            tensor.data.view(-1)[place] += 1
            assert tensor._version == version
            assert checksum(model) != before
            tensor.data.copy_(kept)
    model[0].weight.detach().numpy()[7, 7] += 1e-3
    assert checksum(model) != before


def test_the_checksum_finds_rows_that_change_places():
    model = large()
    before = checksum(model)
    weight = model[0].weight
    weight.data = weight.data.flip(0)
    assert checksum(model) != before
    weight.data = weight.data.flip(0)
    assert checksum(model) == before
    model[0].weight, model[1].weight.data = model[1].weight, weight.data  # the same bytes elsewhere
    assert checksum(model) != before
