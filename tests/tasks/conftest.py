from tests.cli.conftest import run
from tests.tiny_recipe import bert_folder

__all__ = ["bert_folder", "run"]
