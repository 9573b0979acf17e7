"""The bodies of requests. What OpenAI's API has and this has not is refused if it would change an answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deltatune.phrasing import short
from deltatune.serve.engine.sampling import Sampling
from deltatune.serve.refusal import Refusal

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class Body(BaseModel):
    """A body; keys that are not known are left alone, as clients send many."""

    model_config = ConfigDict(extra="ignore", strict=True)


class StreamOptions(Body):
    """What else a stream tells."""

    include_usage: bool = False


class Generating(Body):
    """What both ways of writing a text have."""

    model: Name
    temperature: Annotated[Finite, Field(ge=0, le=100)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Known to OpenAI's clients, and refused unless they ask for what is done anyway.
    n: int | None = None
    presence_penalty: Finite | None = None
    frequency_penalty: Finite | None = None
    logit_bias: dict[str, Finite] | None = None

    @model_validator(mode="after")
    def _only_what_there_is(self) -> Self:
        for name, plain in self._refused().items():
            if getattr(self, name) not in plain:
                given = short(getattr(self, name))
                raise Refusal("invalid", f"{name}: {given} is not offered here.", field=name)
        return self

    def _refused(self) -> dict[str, tuple[Any, ...]]:
        penalties = ("presence_penalty", "frequency_penalty")
        return {"n": (None, 1), **dict.fromkeys(penalties, (None, 0)), "logit_bias": (None, {})}

    def sampling(self, likeliest: int | None) -> Sampling:
        """How tokens are chosen. Without a temperature the likeliest is taken, as `predict` does."""
        seed = None if self.seed is None else self.seed % 2**63
        return Sampling(self.temperature or 0.0, self.top_p or 1.0, self.top_k or 0, seed, likeliest)

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts before which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatRequest(Generating):
    """POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    tool_choice: Any = None
    function_call: Any = None
    modalities: list[Any] | None = None
    audio: Any = None
    web_search_options: Any = None
    response_format: dict[str, Any] | None = None

    def _refused(self) -> dict[str, tuple[Any, ...]]:
        plain = (None, {"type": "text"})
        calls = dict.fromkeys(("tool_choice", "function_call"), (None, "auto", "none"))
        others = dict.fromkeys(("audio", "web_search_options"), (None,))
        forms = {
            "tools": (None, []),
            "functions": (None, []),
            "response_format": plain,
            "modalities": (None, [], ["text"]),
        }
        return super()._refused() | calls | others | forms

    @property
    def likeliest(self) -> int | None:
        """Of how many tokens log-probabilities are told."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Generating):
    """POST /v1/completions."""

    prompt: str | Annotated[list[str], Field(min_length=1)] | Annotated[
        list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)
    ]  # fmt: skip
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def _refused(self) -> dict[str, tuple[Any, ...]]:
        return super()._refused() | {"echo": (None, False), "suffix": (None, ""), "best_of": (None, 1)}


class EmbeddingRequest(Body):
    """POST /v1/embeddings."""

    model: Name
    input: str | Annotated[list[str], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class PredictRequest(Body):
    """POST /predict."""

    model: Name
    input: str | dict[str, Any] | None = None
    """One input: a text, a row's columns, or an image as a data URI."""
    inputs: Annotated[list[str | dict[str, Any]], Field(min_length=1)] | None = None
    """Several of them."""

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.input is None) == (self.inputs is None):
            raise Refusal("invalid", "input, inputs: one of them must be given.", field="input")
        return self

    @property
    def given(self) -> list[str | dict[str, Any]]:
        """All inputs."""
        return self.inputs if self.inputs is not None else [self.input]  # type: ignore[list-item]


class DeltaRequest(Body):
    """POST /admin/deltas."""

    folder: Annotated[str, Field(min_length=1, max_length=1000)]
    """Within the folder of runs that the server was given."""
    name: Annotated[str, Field(min_length=1, max_length=80)] | None = None
    """Default: the folder's."""
