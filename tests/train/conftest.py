"""The tiny recipe's fixtures."""

from tests.tiny_recipe import (
    bert_folder,
    llama_folder,
    make_classifier,
    make_recipe,
    rows,
    t5_folder,
    unpredicted,
)

__all__ = [
    "bert_folder",
    "llama_folder",
    "make_classifier",
    "make_recipe",
    "rows",
    "t5_folder",
    "unpredicted",
]
