"""llama.cpp itself, through xllamacpp: what it makes of a file."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest


class LlamaCpp:
    """A file, loaded by llama.cpp.

    Args:
        path: A GGUF file.
        adapter: Another with a LoRA.
        embedding: Whether it is asked for vectors.
        context: Tokens.
    """

    def __init__(
        self, path: Path, *, adapter: Path | None = None, embedding: bool = False, context: int = 512
    ) -> None:
        engine = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed (pip install xllamacpp)")
        params = engine.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel = context, 1
        params.n_batch = params.n_ubatch = context
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.warmup, params.verbosity, params.embedding = False, -1, embedding
        params.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = engine.ggml_type.GGML_TYPE_F32
        if adapter is not None:
            params.lora_adapters = [engine.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self.server = engine.Server(params)

    def _post(self, place: str, content: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.server.listening_address}/{place}",
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def tokens(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text; special ones that are written in it are found too."""
        asked = {"content": text, "add_special": special, "parse_special": True}
        return list(self._post("tokenize", asked)["tokens"])

    def greedy(self, prompt: str | list[int], count: int) -> list[int]:
        """The next tokens, each time the likeliest."""
        asked = {
            "prompt": prompt,
            "n_predict": count,
            "temperature": 0,
            "return_tokens": True,
            "cache_prompt": False,
            "ignore_eos": True,
        }
        return list(self._post("completion", asked)["tokens"])

    def log_chances(self, prompt: list[int], top: int = 8) -> dict[int, float]:
        """Log probabilities of the likeliest next tokens."""
        asked = {"prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": top, "cache_prompt": False}
        answer = self._post("completion", asked)
        return {each["id"]: each["logprob"] for each in answer["completion_probabilities"][0]["top_logprobs"]}

    def vector(self, text: str) -> list[float]:
        """The vector of a text, of length 1."""
        answer = self.server.handle_embeddings({"input": text})
        return list(answer["data"][0]["embedding"])

    def outputs(self, text: str, count: int) -> list[float]:
        """The first numbers of what a file with a head gives; beyond them the server gives what it finds."""
        asked = {"content": text, "embd_normalize": -1}
        return list(self._post("embedding", asked)[0]["embedding"][0][:count])
