"""What was trained, for others: packed, opened again, sent to the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltatune.alone import alone

if TYPE_CHECKING:
    from deltatune.board import Board
    from deltatune.sharing.pack import Packed
    from deltatune.sharing.push import Pushed


@alone
def push(
    run: str | Path,
    to: str,
    *,
    out: str | Path | None = None,
    base: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    languages: Sequence[str] = (),
    predictions: bool = False,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    overwrite: bool = False,
    keep_card: bool = False,
) -> Pushed:
    """Send a run to the Hugging Face Hub in one commit, as `deltatune push`.

    Args:
        run: The run's folder.
        to: The repository, `user/name`.
        out: Write this folder instead, and send nothing.
        base: Where the run's base is a folder of this machine, the model of the Hub that it is a copy of.
        licence: Of the delta, as the Hub writes it.
        data_licence: Of the data.
        languages: Codes such as `en`.
        predictions: Whether the test rows are sent, with what the model said of each.
        private: Whether a repository that is made is private.
        revision: The branch.
        message: Of the commit.
        overwrite: Whether files in the repository may be replaced.
        keep_card: Whether a card that is there stays.

    Raises:
        DeltatuneError: It is no finished run, or was changed; or the Hub refused or did not answer.
    """
    from deltatune.sharing.push import Asked
    from deltatune.sharing.push import push as send

    asked = Asked(
        repo=to,
        base=base,
        licence=licence,
        data_licence=data_licence,
        languages=tuple(languages),
        predictions=predictions,
        private=private,
        revision=revision,
        message=message,
        overwrite=overwrite,
        keep_card=keep_card,
    )
    return send(Path(run), asked, out=None if out is None else Path(out))


@alone
def pack(
    folder: str | Path, out: str | Path | None = None, *, predictions: bool = True, overwrite: bool = False
) -> Packed:
    """Put a comparison or a run into one file without its weights, as `deltatune pack`.

    Args:
        folder: Its folder.
        out: The file. Default: beside the folder, by its name.
        predictions: Whether the test rows are packed, with what the models said of each.
        overwrite: Whether a file may be replaced.

    Raises:
        DeltatuneError: The folder holds neither, or the file is there.
    """
    from deltatune.sharing.pack import pack as put_together

    place = None if out is None else Path(out)
    return put_together(Path(folder), place, predictions=predictions, overwrite=overwrite)


@alone
def open_board(path: str | Path) -> Board:
    """The leaderboard of a comparison that was made before: of its folder, or of a file that `pack` wrote.

    A packed one is unpacked to a temporary folder, which goes with the board.

    Raises:
        DeltatuneError: It holds no comparison, or may not be unpacked.
    """
    from deltatune.board import Board
    from deltatune.sharing import archive

    path = Path(path)
    if not archive.is_archive(path):
        return Board.open(path)
    return Board.unpacked(path)
