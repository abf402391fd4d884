"""The pair tool: one direction, outputs kept where they still belong, and nothing that varies."""

from __future__ import annotations

import os
from pathlib import Path

import nb
import nbformat
import pytest

HEAD = """---
jupytext:
  formats: ipynb,md:myst
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A chapter
"""
CHECKED = '```{{code-cell}} ipython3\n:tags: [nbval-check-output]\n\nprint("claim {0}: yes")\n```\n'
PLAIN = "```{{code-cell}} ipython3\n{0}\n```\n"
VERDICTS = "\n".join(CHECKED.format(n) for n in range(3))


@pytest.fixture
def notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nb, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")  # nb.execute takes it away; put back what was there
    return tmp_path


def write(folder: Path, *cells: str) -> Path:
    md = folder / "01_small.md"
    md.write_text("\n".join([HEAD, *cells]), encoding="utf-8")
    return md


def pretend_run(md: Path, stored: bool = True) -> Path:
    """Store for each cell what its run would have left: a count, and what it prints."""
    notebook, count = nb.from_md(md), 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            if stored and cell.source.startswith("print("):
                text = cell.source[7:-2] + "\n"
                cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    ipynb = md.with_suffix(".ipynb")
    ipynb.write_text(nb.dumps(notebook), encoding="utf-8")
    return ipynb


def test_a_sound_pair_has_no_problem(notebooks: Path) -> None:
    md = write(notebooks, VERDICTS)
    pretend_run(md)
    assert nb.problems(md) == []
    assert nb.check([]) == 0


def test_an_edit_of_the_source_wins_whatever_the_file_times(notebooks: Path) -> None:
    md = write(notebooks, PLAIN.format("x = 1"), VERDICTS)
    ipynb = pretend_run(md)
    md.write_text(md.read_text().replace("x = 1", "x = 2"))
    os.utime(md, (1, 1))  # the .ipynb is now the newer file
    assert nb.write([], run=False) == 0
    assert "x = 2" in md.read_text()
    cells = [c for c in nbformat.read(ipynb, 4).cells if c.cell_type == "code"]
    assert cells[0].source == "x = 2"
    assert cells[0].execution_count is None  # what belonged to x = 1 is gone
    assert [c.outputs[0].text for c in cells[1:]] == [f"claim {n}: yes\n" for n in range(3)]
    assert nb.problems(md) == ["cell 1 was never run: make run NB=01_small"]


def test_outputs_lose_what_varies_and_keep_glue(notebooks: Path) -> None:
    notebook = nb.from_md(write(notebooks, PLAIN.format("x = 1")))
    cell = notebook.cells[-1]
    cell.metadata["execution"] = {"iopub.status.idle": "2026-01-01"}
    cell.metadata["tags"] = []
    glue = {"scrapbook": {"name": "w1", "mime_prefix": ""}, "time": 3}
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="a"),
        nbformat.v4.new_output("stream", name="stdout", text="b"),
        nbformat.v4.new_output("stream", name="stderr", text="c"),
        nbformat.v4.new_output("display_data", data={"text/plain": "1"}, metadata=glue),
    ]
    notebook.metadata["papermill"] = {"duration": 1.5}
    cleaned = nb.clean(notebook)
    assert set(cleaned.metadata) == {"kernelspec", "language_info"}
    assert cleaned.cells[-1].metadata == {}
    outputs = cleaned.cells[-1].outputs
    assert [(o.name, o.text) for o in outputs[:2]] == [("stdout", "ab"), ("stderr", "c")]
    assert outputs[2].metadata == {"scrapbook": {"name": "w1", "mime_prefix": ""}}


def test_two_runs_store_the_same_bytes(notebooks: Path) -> None:
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    where = "from pathlib import Path\nprint(Path.cwd().name)"
    md = write(notebooks, PLAIN.format(plot), PLAIN.format(where), VERDICTS)
    stored = []
    for _ in range(2):
        assert nb.write([], run=True) == 0
        stored.append(md.with_suffix(".ipynb").read_bytes())
    assert stored[0] == stored[1]
    assert nb.problems(md) == []
    outputs = [o for c in nbformat.reads(stored[0], 4).cells for o in c.get("outputs", [])]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 1
    assert outputs[1].text == f"{notebooks.name}\n"  # the working directory


def test_a_failing_cell_is_not_stored(notebooks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    md = write(notebooks, PLAIN.format("raise ValueError('too steep')"))
    assert nb.write([], run=True) == 1
    assert not md.with_suffix(".ipynb").exists()
    said = capfd.readouterr().err
    assert "01_small.md: not written, a cell failed" in said
    assert ": too steep" in said


def test_a_marked_cell_without_output_is_found(notebooks: Path) -> None:
    md = write(notebooks, VERDICTS)
    pretend_run(md, stored=False)
    problems = nb.problems(md)
    assert "cell 1 is marked nbval-check-output but has no stored output" in problems
    assert "0 cells marked nbval-check-output, run and stored; at least 3" in problems


def test_a_marked_cell_that_was_never_run_is_found(notebooks: Path) -> None:
    md = write(notebooks, VERDICTS)
    assert nb.write([], run=False) == 0
    problems = nb.problems(md)
    assert "cell 3 was never run: make run NB=01_small" in problems
    assert "0 cells marked nbval-check-output, run and stored; at least 3" in problems


def test_errors_and_complaints_in_stored_outputs_are_found(notebooks: Path) -> None:
    md = write(notebooks, PLAIN.format("x = 1"), PLAIN.format("y = 1"), VERDICTS)
    ipynb = pretend_run(md)
    notebook = nbformat.read(ipynb, 4)
    complaint = nbformat.v4.new_output("stream", name="stderr", text="Warning")
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
    notebook.cells[1].outputs, notebook.cells[2].outputs = [complaint], [error]
    ipynb.write_text(nb.dumps(nb.clean(notebook)))
    assert nb.problems(md) == ["cell 1 holds stderr output", "cell 2 holds an error"]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([41] + [1] * 20, ["cell 0 has 41 lines; at most 40"]),
        ([26] * 3 + [1] * 20, ["nine in ten cells must have at most 25 lines; got 26"]),
        ([9] * 3, ["median of 9 lines a cell; at most 8"]),
        ([40, *[8] * 20], []),
    ],
)
def test_long_cells_are_found(sizes: list[int], said: list[str]) -> None:
    cells = [nbformat.v4.new_code_cell("\n\n".join(["x = 1"] * n)) for n in sizes]
    assert nb.size_problems(nbformat.v4.new_notebook(cells=cells)) == said


def test_a_notebook_without_source_is_found(notebooks: Path) -> None:
    pretend_run(write(notebooks, VERDICTS))
    (notebooks / "02_stray.ipynb").write_text("{}")
    assert nb.check([]) == 1


def test_a_chapter_that_does_not_exist_is_refused(notebooks: Path) -> None:
    with pytest.raises(SystemExit, match="no such chapter: 07_none"):
        nb.sources(["07_none"])
