"""The notebooks in docs/notebooks/, run as notebooks are.

`make notebook` writes what their cells show into them.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

PAGES = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
_SOURCE = Path(__file__).parents[1] / "src"


def read(page: Path) -> nbformat.NotebookNode:
    """The notebook in this file."""
    return nbformat.read(page, as_version=4)


def executed(page: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs; its files are written into `folder`.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = read(page)
    paths = [str(_SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "DELTATUNE_CACHE": str(folder / "cache"),
        "IPYTHONDIR": str(folder / "ipython"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # of libraries whose bars need ipywidgets
    }
    with mock.patch.dict(os.environ, environment):
        client = NotebookClient(
            notebook, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it was run
    text = nbformat.writes(notebook).replace(f"{folder}/", "")  # folders of one machine concern no other
    return nbformat.reads(text, as_version=4)


if __name__ == "__main__":
    for path in [page for page in PAGES if page.stem in sys.argv[1:] or not sys.argv[1:]]:
        with tempfile.TemporaryDirectory() as place:
            nbformat.write(executed(path, Path(place)), path)
