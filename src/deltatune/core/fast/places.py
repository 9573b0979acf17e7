"""Rows of a matrix that are chosen, and rows that are put back in their places."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def choose(x: Tensor, places: Tensor) -> Tensor:
    """Take of x [all, width] the rows at `places` [n], which are distinct: [n, width]."""
    chosen: Tensor = _Choose.apply(x, places)
    return chosen


def put_back(y: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Put the rows of y [n, width] at `places` [n], which are distinct, into zeros [*shape, width]."""
    whole: Tensor = _PutBack.apply(y, places, shape)
    return whole


class _Choose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.of = len(x)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        [places] = ctx.saved_tensors
        return grad.new_zeros(ctx.of, grad.shape[1]).index_copy_(0, places, grad), None


class _PutBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, places: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(places)
        whole = y.new_zeros(*shape, y.shape[1])
        _ = whole.view(-1, y.shape[1]).index_copy_(0, places, y)
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        [places] = ctx.saved_tensors
        return grad.reshape(-1, grad.shape[-1]).index_select(0, places), None, None
