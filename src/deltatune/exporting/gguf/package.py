"""The `gguf` package, llama.cpp's own, which an extra brings."""

from __future__ import annotations

import importlib
from typing import Any

from deltatune.errors import ModelError


def package() -> Any:
    """The module.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise ModelError(
            "writing GGUF needs the package gguf, which is not installed.",
            field="--as",
            remedy="Install it with: pip install 'deltatune[gguf]'",
        ) from error
