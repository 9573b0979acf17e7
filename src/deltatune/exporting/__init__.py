"""Exports: what a run's delta becomes for other programs. A target is a file here and a line in this table.

The table is all that is imported with the package, so that a list of targets costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltatune.registry import Registry

if TYPE_CHECKING:
    from deltatune.exporting.target import Target

TARGETS: Registry[Target] = Registry(
    "target",
    {
        "lora": "deltatune.exporting.lora:TARGET",
        "peft": "deltatune.exporting.peft:TARGET",
        "vllm": "deltatune.exporting.vllm:TARGET",
        "merged": "deltatune.exporting.merged:TARGET",
        "gguf": "deltatune.exporting.gguf.target:TARGET",
        "gguf-lora": "deltatune.exporting.gguf.lora:TARGET",
        "onnx": "deltatune.exporting.onnx_folder:TARGET",
    },
    group="deltatune.targets",
)
