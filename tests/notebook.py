"""docs/notebooks/from-python.ipynb, run as a notebook is.

`make notebook` writes what its cells show into it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

PAGE = Path(__file__).parents[1] / "docs" / "notebooks" / "from-python.ipynb"
_SOURCE = Path(__file__).parents[1] / "src"


def read() -> nbformat.NotebookNode:
    """The notebook."""
    return nbformat.read(PAGE, as_version=4)


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs; its files are written into `folder`.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = read()
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
    with tempfile.TemporaryDirectory() as place:
        nbformat.write(executed(Path(place)), PAGE)
