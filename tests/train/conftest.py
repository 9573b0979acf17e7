"""The tiny recipe's fixtures."""

from tests.tiny_recipe import make_recipe, rows, t5_folder

__all__ = ["make_recipe", "rows", "t5_folder"]
