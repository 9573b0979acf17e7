from tests.cli.conftest import run
from tests.tiny_recipe import bert_folder, unpredicted

__all__ = ["bert_folder", "run", "unpredicted"]
