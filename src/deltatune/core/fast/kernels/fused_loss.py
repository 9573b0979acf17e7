"""The output head and cross-entropy in one, by the package cut-cross-entropy (Wijmans et al. 2024)."""

from __future__ import annotations

from torch import Tensor


def summed(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of hidden weight^T [n, vocabulary] and targets [n], summed, in float32.

    Args:
        hidden: What the head is given, [n, width].
        weight: The head's, [vocabulary, width], in `hidden`'s type.
        targets: Places in the vocabulary.
    """
    from cut_cross_entropy import linear_cross_entropy

    loss: Tensor = linear_cross_entropy(hidden, weight, targets, reduction="sum")
    return loss.float()
