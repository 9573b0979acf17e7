"""Keeping Transformers from printing over our own progress."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from logging import CRITICAL, getLogger

from transformers import modeling_gguf_pytorch_utils as gguf_reader
from transformers.utils import logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Transformers' loading bars, logger and Python warnings; all is restored afterwards.

    So is torch's log of what fails on tensors without data, which is an exception besides, and that of
    bitsandbytes, which peft imports, of kernels that nobody asked for.
    """
    loggers = {name: getLogger(name) for name in ("torch._subclasses.fake_tensor", "bitsandbytes")}
    levels = {name: logger.level for name, logger in loggers.items()}
    for logger in loggers.values():
        logger.setLevel(CRITICAL)
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with warnings.catch_warnings(), _silent_gguf():
        warnings.simplefilter("ignore")
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            for name, logger in loggers.items():
                logger.setLevel(levels[name])
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within the block nothing is printed: some backends do, and draw bars, on standard output too."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def _silent_gguf() -> Iterator[None]:
    """The GGUF reader draws a bar of its own that no setting of Transformers turns off."""
    bar = gguf_reader.tqdm
    gguf_reader.tqdm = lambda tensors, desc=None: tensors
    try:
        yield
    finally:
        gguf_reader.tqdm = bar
