"""Swapping: an adapter's own parameters in the places of the base's, for as long as it acts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


class OwnParameters:
    """Puts parameters in the places of a model's, tied ones included, and takes them out again."""

    def __init__(self, base: nn.Module) -> None:
        self._base = base
        self._before: list[tuple[nn.Module, str, nn.Parameter]] = []

    def put(self, own: Mapping[str, nn.Parameter]) -> None:
        """Put `own`, by path, in place of the base's."""
        if not own:
            return
        by_identity = {id(self._base.get_parameter(path)): parameter for path, parameter in own.items()}
        for module in self._base.modules():
            for leaf, parameter in list(module._parameters.items()):
                if parameter is not None and id(parameter) in by_identity:
                    self._before.append((module, leaf, parameter))
                    module._parameters[leaf] = by_identity[id(parameter)]

    def restore(self) -> None:
        """Put the base's own back."""
        for module, leaf, parameter in self._before:
            module._parameters[leaf] = parameter
        self._before = []
