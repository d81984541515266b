"""The notebook, run as Jupyter runs it."""

from __future__ import annotations

import nbclient
import nbformat

from tests.doors.running import EXAMPLES, URL


def test_the_notebook_runs(local_url: str) -> None:
    """Every cell runs in order: sync and async calls, progress and a plot; no cell prints to stderr."""
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(URL, local_url)
    where = {"metadata": {"path": str(EXAMPLES)}}
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = "".join(output.get("text", "") for output in outputs if output.output_type == "stream")
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert "60 of 60 articles" in shown
    assert (shown.count("Article 21"), shown.count("제21조")) == (2, 2)
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_is_kept_without_outputs() -> None:
    """What is checked in has no outputs, so that a run shows no change but the one that was made."""
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
