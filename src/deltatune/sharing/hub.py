"""The Hugging Face Hub: one commit of a folder, and what went wrong in a paragraph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltatune.errors import DeltatuneError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write."
_OF_THE_HUB = {".gitattributes"}
"""Files that the Hub itself makes in a new repository."""
CARD = "README.md"
_NETWORK = ("httpx", "httpx2", "httpcore", "requests", "urllib3")
"""Packages whose errors mean that no answer came."""


class HubError(DeltatuneError):
    """The Hub refused, or did not answer."""


@dataclass
class Hub:
    """A connection with the user's own login, for one repository."""

    repo: str
    """`user/name`."""
    api: HfApi
    user: str = ""
    made: bool = False
    """Whether the repository was made just now."""

    @classmethod
    def open(cls, repo: str) -> Hub:
        """Check what can be checked without a request.

        Raises:
            HubError: The user works offline, or is not logged in.
        """
        from huggingface_hub import HfApi, constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise HubError(
                "HF_HUB_OFFLINE is set, so nothing can be sent to the Hub.",
                remedy="Unset it; or write the folder with --dry-run --out DIR and send it from elsewhere.",
            )
        if get_token() is None:
            raise HubError("there is no login for the Hub.", remedy=LOGIN)
        return cls(repo, HfApi(library_name="deltatune"))

    def push(
        self,
        folder: Path,
        *,
        private: bool,
        revision: str | None,
        message: str,
        overwrite: bool,
        keep_card: bool,
    ) -> str:
        """Send a folder in one commit, and return its address.

        Args:
            folder: What is sent.
            private: Whether a repository that is made is private.
            revision: The branch; None: main.
            message: Of the commit.
            overwrite: Whether files that are there may be replaced; those that we no longer have go.
            keep_card: Whether a README.md that is there stays.

        Raises:
            HubError: The Hub refused, or did not answer; nothing of the commit is there then.
        """
        with self._explained():
            self.user = str(self.api.whoami().get("name", ""))
            there, replaced = self._files(revision)
            if replaced and not overwrite:
                raise HubError(
                    f"'{self.repo}' is there and holds {_listed(sorted(replaced))}.",
                    field="--to",
                    remedy="Choose another name; with --overwrite the files of a delta are replaced in one "
                    "commit, and earlier ones stay in its history.",
                )
            if there is None:
                self.api.create_repo(self.repo, private=private, exist_ok=True)
                self.made = True
            if revision is not None:
                self.api.create_branch(self.repo, branch=revision, exist_ok=True)
            operations = _operations(folder, there or set(), keep_card=keep_card)
            done = self.api.create_commit(
                self.repo, operations=operations, commit_message=message, revision=revision
            )
        return str(done.commit_url)

    def licence_of(self, model: str) -> str | None:
        """The licence that a model's card on the Hub names; None where it names none, or cannot be read."""
        with contextlib.suppress(Exception):  # of no account for what is sent
            data = self.api.model_info(model).card_data
            licence = data.get("license") if data is not None else None
            return str(licence) if licence else None
        return None

    def _files(self, revision: str | None) -> tuple[set[str] | None, set[str]]:
        """Files that a commit finds, None if there is no repository; and those that it would replace.

        A branch that is made begins as main is, and replaces nothing.
        """
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        try:
            there = set(self.api.list_repo_files(self.repo, revision=revision)) - _OF_THE_HUB
        except RevisionNotFoundError:
            return set(self.api.list_repo_files(self.repo)) - _OF_THE_HUB, set()
        except RepositoryNotFoundError:
            return None, set()
        return there, there

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what an answer of the Hub, or none, means."""
        try:
            yield
        except DeltatuneError:
            raise
        except Exception as error:
            what, remedy = self._diagnosis(error)
            raise HubError(what, field="--to", remedy=remedy) from error

    def _diagnosis(self, error: Exception) -> tuple[str, str]:
        causes = list(_causes(error))
        status = next((code for cause in causes if (code := _status(cause)) is not None), None)
        state = f"'{self.repo}' was made and is empty." if self.made else "Nothing was changed."
        who = f"'{self.user}'" if self.user else "this login"
        space = self.repo.partition("/")[0]
        known = {
            401: ("the Hub does not accept the token.", LOGIN),
            403: (
                f"the token of {who} may not write to '{self.repo}'.",
                f"Take a token with the right to write; {space!r} must be you or an organisation of yours.",
            ),
            404: (
                f"there is no {space!r} on the Hub, or {who} may not see '{self.repo}'.",
                "Check the spelling of --to (user/name).",
            ),
            429: ("the Hub asks to wait: too many requests.", "Run the same command again later."),
        }
        network = any(type(cause).__module__.partition(".")[0] in _NETWORK for cause in causes)
        if status in known:
            what, remedy = known[status]
        elif status is not None and status >= 500:
            what, remedy = f"the Hub has a fault of its own ({status}).", "Run the same command again later."
        elif status is None and (network or any(isinstance(cause, ConnectionError) for cause in causes)):
            what = f"the Hub did not answer ({type(causes[-1]).__name__})."
            remedy = "Check the network and run the same command again; a commit is whole or not there."
        else:
            what = f"the Hub refused: {' '.join(str(error).split())[:300]}."
            remedy = "Mend what it names and run the command again."
        return f"{what} {state}", remedy


def _operations(folder: Path, there: set[str], *, keep_card: bool) -> list[Any]:
    """What the commit does: the folder's files, and no file of an earlier push that this one has not."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from deltatune.sharing.public import CERTIFICATE, CONFIG, OURS, PREDICTIONS, RECIPE, RESULT, TENSORS

    sent = {path.name: path for path in sorted(folder.iterdir())}
    if keep_card and CARD in there:
        del sent[CARD]
    ours = {CERTIFICATE, CONFIG, OURS, PREDICTIONS, RECIPE, RESULT, TENSORS}
    gone = sorted(ours & there - sent.keys())
    added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in sent.items()]
    return [*added, *(CommitOperationDelete(path_in_repo=name) for name in gone)]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
