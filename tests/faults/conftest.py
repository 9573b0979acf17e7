"""The tiny recipe's fixtures."""

from tests.tiny_recipe import llama_folder, make_recipe, rows, t5_folder, unpredicted

__all__ = ["llama_folder", "make_recipe", "rows", "t5_folder", "unpredicted"]
