r"""Hard prompts: readable text before the input, found by gradient-guided search on the training rows.

    min over tokens t_1 .. t_n of L([E(t_1) .. E(t_n); E(x)])

`search: gcg` (Zou et al. 2023, algorithm 1; Shin et al. 2020, AutoPrompt, equation 2): the gradient g_i at
the embedding of each token ranks all tokens w by -E(w) . g_i, the first-order change of the loss. Single
swaps drawn from the best `top_k` of each place are tried on the step's batch, and the best one is taken if it
lowers the loss. With `fluency` f they are judged by L - f mean_i log p(t_i | t_1 .. t_(i-1)), p being that of
the untouched language model, so that the text stays readable (Shi et al. 2022, FluentPrompt). `search: pez`
(Wen et al. 2023, algorithm 1): continuous vectors are moved by AdamW with the gradient that is taken at the
nearest tokens (by cosine), which are what the forward pass uses.

Both are one straight-through formula, P = E(t) + v - sg(v): the vectors v collect gradients and never change
what the model sees. The prompt stands where its text would stand, behind `[CLS]` or the begin token, and ends
with a line break where the tokenizer would otherwise glue it to the input: the untouched model with the text
put before its input computes the same. Only tokens that read back alone and in pairs are tried.

Initialisation: a text, or random readable words. Oracle: the untouched model on the concatenated text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from deltatune.core.adapter import Adapter, Prompt
from deltatune.core.method import MethodConfig
from deltatune.core.readable import Reader
from deltatune.core.sites import BaseView
from deltatune.core.whole import gathered
from deltatune.errors import TargetError


class HardPrompt(Prompt):
    """Tokens, and vectors that collect the gradients at their embeddings.

    Args:
        ids: The tokens to search, [n].
        end: Tokens that always follow them, [m].
        allowed: Tokens that may take their places, [n_allowed].
        embed: The base's table of input embeddings.
        nearest: Whether the tokens are those nearest to the vectors (PEZ), instead of `ids`.
        behind: Beginnings of inputs that the prompt stands behind.
    """

    def __init__(
        self,
        ids: Tensor,
        end: Sequence[int],
        allowed: Tensor,
        embed: nn.Module,
        *,
        nearest: bool,
        behind: tuple[tuple[int, ...], ...],
    ) -> None:
        super().__init__()
        self._embed = (embed,)  # in a tuple: it belongs to the base
        self.ids: Tensor
        self.end: Tensor
        self.allowed: Tensor
        self.register_buffer("ids", ids)
        self.register_buffer("end", torch.tensor(end, dtype=torch.long))
        self.register_buffer("allowed", allowed)
        self.vectors = nn.Parameter(self.embedded(ids).float())
        self.nearest = nearest
        self.behind = behind

    def embedded(self, ids: Tensor) -> Tensor:
        """Embeddings of `ids` [n] in the untouched base, [n, d_model]."""
        table = self._embed[0]
        with gathered(table):
            found: Tensor = table.forward(ids.to(next(table.parameters()).device))  # past the taps of others
        return found.detach()

    @torch.no_grad()
    def tokens(self) -> Tensor:
        """The present prompt, [n + m]."""
        ids = self.ids
        if self.nearest:
            table = F.normalize(self.embedded(self.allowed).float(), dim=1)
            ids = self.allowed[(F.normalize(self.vectors, dim=1) @ table.T).argmax(dim=1)]
        return torch.cat([ids, self.end])

    @torch.no_grad()
    def put(self, ids: Tensor) -> None:
        """Make `ids` [n] the prompt."""
        self.ids.copy_(ids)
        self.vectors.copy_(self.embedded(self.ids))

    def forward(self) -> Tensor:
        """Return E(t) with a gradient path to the vectors, [n + m, d_model]."""
        held = self.vectors - self.vectors.detach()
        return self.embedded(self.tokens()) + F.pad(held, (0, 0, 0, len(self.end)))


class HardPromptAdapter(Adapter):
    """A prompt of tokens and its search.

    Args:
        prompt: Where the search starts.
        config: Its settings.
        reader: Says which tokens read back; None without a tokenizer, when all are taken to do so.
        surprise: Mean negative log-likelihood of tokens [n] as a text.
    """

    def __init__(
        self,
        prompt: HardPrompt,
        config: HardPromptConfig,
        reader: Reader | None,
        surprise: Callable[[Tensor], float],
    ) -> None:
        super().__init__(prompt=prompt)
        self.config = config
        self.reader = reader
        self.surprise = surprise
        self.hard = prompt
        self.swaps = 0

    @torch.no_grad()
    def before_step(self, step: int, loss: Callable[[], float]) -> None:
        """Try swaps of one token and take the best, if it is better than none (gcg)."""
        gradient = self.hard.vectors.grad
        if self.config.search != "gcg" or gradient is None:
            return
        table = self.hard.embedded(self.hard.allowed).float()
        ranked = (gradient @ table.T).topk(min(self.config.top_k, len(table)), dim=1, largest=False)
        generator = torch.Generator().manual_seed(hash((self.clock.seed, step)) & (2**63 - 1))
        before = self.hard.ids.clone()
        best, lowest = before, loss() + self._unreadable(before)
        for _ in range(self.config.candidates):
            place, rank = (int(torch.randint(size, (), generator=generator)) for size in ranked.indices.shape)
            trial = before.clone()
            trial[place] = self.hard.allowed[ranked.indices[place, rank]]
            if torch.equal(trial, before) or not self._reads_back(trial):
                continue
            self.hard.ids.copy_(trial)
            value = loss() + self._unreadable(trial)
            if value < lowest:
                best, lowest = trial, value
        self.hard.ids.copy_(best)
        self.swaps += int(best is not before)

    def _unreadable(self, ids: Tensor) -> float:
        return self.config.fluency * self.surprise(ids) if self.config.fluency else 0.0

    def _reads_back(self, ids: Tensor) -> bool:
        return self.reader is None or self.reader.reads_back(ids.tolist())

    def after_step(self, step: int) -> dict[str, float]:
        """Report how many swaps have been taken so far (gcg)."""
        return {"swaps": float(self.swaps)} if self.config.search == "gcg" else {}

    def finish(self) -> dict[str, float]:
        """Report whether the text gives the prompt's tokens when it is tokenised again (1 or 0)."""
        if self.reader is None:
            return {}
        return {"reads_back": float(self.reader.reads_back(self._searched()))}

    def text(self) -> str | None:
        """The prompt as text, with the blank or line break at its end; None without a tokenizer."""
        if self.config.behind is not None or self.reader is None:
            return self.config.text
        return self.reader.text(self._searched()) + self.reader.separator

    def _searched(self) -> list[int]:
        found: list[int] = self.hard.tokens().tolist()
        return found[: len(found) - len(self.hard.end)]

    def describe(self) -> str | None:
        """The prompt as text."""
        text = self.text()
        return None if text is None else f"prompt {text!r}"

    def stored(self) -> dict[str, Tensor]:
        """The tokens in place of their embeddings."""
        tensors = super().stored()
        del tensors["prompt_embeddings"]
        return tensors | {"prompt_ids": self.hard.tokens()}

    def _load_virtual_tokens(self, tensors: Mapping[str, Tensor]) -> None:
        self.hard.put(tensors["prompt_ids"])

    def resume_state(self) -> dict[str, Any]:
        """The tokens and the number of swaps."""
        return super().resume_state() | {"ids": self.hard.ids, "swaps": self.swaps}

    def load_resume_state(self, state: dict[str, Any]) -> None:
        """Take what `resume_state` gave."""
        super().load_resume_state(state)
        self.hard.ids.copy_(state["ids"])
        self.swaps = int(state["swaps"])


@torch.no_grad()
def _surprise(view: BaseView, ids: Tensor) -> float:
    """Mean -log p(t_i | t_1 .. t_(i-1)) of tokens [n] in the untouched base; 0 for a single one."""
    with view.without_adapters():
        logits = view.base(input_ids=ids[None]).logits[0, :-1]
    return float(F.cross_entropy(logits.float(), ids[1:])) if len(ids) > 1 else 0.0


class HardPromptConfig(MethodConfig):
    """Hard prompt tuning. The result is text, which works with the untouched model anywhere."""

    name: ClassVar[str] = "hard_prompt"
    title: ClassVar[str] = "Readable text before the input, found by gradient-guided search."
    formula: ClassVar[str] = "min over tokens t of L([E(t_1) .. E(t_n); E(x)])"
    when: ClassVar[str] = (
        "When the result must be text: to be read, or to be used where only text can be sent. Weaker than "
        "every method that trains vectors or weights."
    )
    cost: ClassVar[str] = (
        "n_tokens numbers in the file; each gcg step costs `candidates` + 1 forward passes more; inputs are "
        "n_tokens longer, for good."
    )
    defaults: ClassVar[str] = (
        "10 tokens (AutoPrompt's examples have 3 to 5, PEZ's has 16), 16 swaps per step from the best 64 "
        "(fewer than GCG's 512 from 256, for small machines); lr 0.1 as in PEZ's code, gcg has none."
    )
    paper: ClassVar[str] = (
        "Shin et al. 2020, AutoPrompt (2010.15980); Zou et al. 2023, GCG (2307.15043); Wen et al. 2023, Hard "
        "Prompts Made Easy (2302.03668)."
    )
    default_lr: ClassVar[float] = 0.1

    n_tokens: Annotated[int, Field(ge=1)] = 10
    """Number of tokens, unless `initial` gives them."""
    search: Literal["gcg", "pez", "none"] = "gcg"
    """How tokens are found: tried swaps, projected vectors, or not at all (`initial` as it is)."""
    initial: str | None = None
    """The text to start from; null starts from random words."""
    candidates: Annotated[int, Field(ge=1)] = 16
    """Swaps that are tried in each step (gcg)."""
    top_k: Annotated[int, Field(ge=1)] = 64
    """Tokens of each place that swaps are drawn from, the most promising by gradient (gcg)."""
    fluency: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the prompt's own mean negative log-likelihood beside the loss (gcg, language models): how
    much worse a fit is accepted for a text that reads better."""
    text: str | None = None
    """The prompt. Found; written when a delta is saved."""
    behind: tuple[tuple[int, ...], ...] | None = None
    """Beginnings of inputs that the prompt stands behind, as token ids. Written when a delta is saved."""

    @model_validator(mode="after")
    def _something_to_use(self) -> Self:
        if self.search == "none" and not self.initial and self.behind is None:
            raise ValueError("`search: none` uses the text in `initial`; give one, or search")
        if self.fluency and self.search != "gcg":
            raise ValueError(f"`fluency` judges swaps, which `search: {self.search}` does not try; use gcg")
        return self

    def build(self, view: BaseView) -> Adapter:
        """The prompt where its search starts, or the stored one."""
        if view.is_vision:
            raise TargetError(
                f"{view.model_type} reads images, and a hard prompt is text.",
                field="method",
                remedy="Use prompt, whose vectors need no vocabulary.",
            )
        if self.initial and view.processor is None:
            raise TargetError(
                "starting from a text needs the base's tokenizer.",
                field="hard_prompt.initial",
                remedy="Pass processor=tokenizer to AdaptedModel.",
            )
        if self.fluency and (not view.is_decoder_only or view.base.get_output_embeddings() is None):
            raise TargetError(
                f"{view.model_type} is no language model here and cannot tell how a text reads.",
                field="hard_prompt.fluency",
                remedy="Leave it out, or take a decoder-only language model.",
            )
        embed = view.tokens
        searched = self.behind is None
        reader = Reader(view.processor) if view.processor is not None and searched else None
        every = torch.arange(embed.num_embeddings)
        allowed = every if reader is None or self.search == "none" else torch.tensor(reader.words(len(every)))
        prompt = HardPrompt(
            self._start(reader, allowed),
            reader.end if reader else (),
            allowed,
            embed,
            nearest=self.search == "pez",
            behind=reader.beginnings if reader else self.behind or (),
        )
        return HardPromptAdapter(prompt, self, reader, lambda ids: _surprise(view, ids))

    def _start(self, reader: Reader | None, allowed: Tensor) -> Tensor:
        if self.initial and reader is not None:
            return torch.tensor(reader.ids(self.initial))
        for _ in range(100):
            ids = allowed[torch.randint(len(allowed), (self.n_tokens,))]
            if reader is None or reader.reads_back(ids.tolist()):
                break
        return ids

    def lost_when_saved(self) -> str | None:
        """The search."""
        return "its text is the end of a search, which is not saved"

    def for_inference(self, adapter: Adapter) -> Self:
        """What was found: the text, its length in tokens and its place."""
        assert isinstance(adapter, HardPromptAdapter)
        found = {
            "n_tokens": len(adapter.hard.tokens()),
            "search": "none",
            "fluency": 0.0,
            "initial": None,
            "text": adapter.text(),
            "behind": adapter.hard.behind,
        }
        return self.model_copy(update=found)
