"""A run on one page: `python -m mcrlib.companion.report RUN` (ours).

The page begins with the claims and what the numbers say of each. The tables and figures follow, as
the executed notebooks show them, each with the notebook and the numbers that it was made of. It is
one file that needs no network and runs no script.
"""

import html
import json
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook

from mcrlib import config, results
from mcrlib.companion import claims
from mcrlib.companion.execute import may_show_patients
from mcrlib.files import keep_private, sha256, write

FILE = "report.html"
# Executed notebook -> files of numbers in results/RUN that its tables and figures are made of.
NUMBERS = {
    "03_retrieval": ("retrieval.json", "comparison.json", "verdicts.json"),
    "04_text_metrics": ("text_metrics.json", "agreement.json"),
    "11_relevance": ("relevance.json", "probes.json"),
    "10_grounding": ("grounding.json",),
    "13_robustness": ("robustness.json",),
    "07_ablations": ("ablations.json", "compute.json", "scale.json"),
    "05_modality_gap": ("modality_gap.json",),
    "06_top3": ("top3.json",),
    "08_efficiency": ("efficiency.json",),
    "00_data": ("data.json",),
}
SHOWN = ("text/html", "image/png", "text/markdown")  # an output without these is a plain number
STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.45;
  font-family: sans-serif; color: #1a1a1a; background: #fff; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; }
th, td { padding: 0.25rem 0.6rem; text-align: left; border-bottom: 1px solid #ddd; }
.made-of { color: #595959; font-size: 0.75rem; margin: 0 0 2rem; }
code { background: #f3f3f3; padding: 0 0.2em; }
"""


def build(run: str) -> Path:
    """Write the page of a run, `results/RUN/report.html`; returns the file.

    Raises FileNotFoundError, with what to run, if the claims have not been judged.
    """
    folder = config.ROOT / "results" / run
    judged = folder / claims.FILE
    if not judged.is_file():
        raise FileNotFoundError(f"There is no {judged}: run `make 12_claims RUN={run}` first.")
    record = results.load(judged)
    verdicts = [
        new_markdown_cell(f"# What the run {run} shows"),
        new_markdown_cell(claims.page(record["values"])),
        new_markdown_cell(_made_of("12_claims", [judged])),
    ]
    parts = [_rendered(verdicts)]
    for name, numbers in NUMBERS.items():
        parts.append(_section(folder, name, numbers))
    parts.append("<h1>Settings of mcr, and the machine that judged</h1>")
    parts.append(_two_columns(config.load(run).deciding()))
    parts.append(_two_columns(_machine(record["provenance"])))
    file = folder / FILE
    write(file, _page(f"MCR: {run}", parts).encode())
    return file


def _page(title: str, parts: list[str]) -> str:
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _machine(provenance: dict[str, Any]) -> dict[str, Any]:
    """Commit, device and versions of packages."""
    shown = {name: provenance[name] for name in ("git", "python", "device") if name in provenance}
    return shown | provenance.get("packages", {})


def _two_columns(values: dict[str, Any]) -> str:
    rows = []
    for name, value in values.items():
        written = value if isinstance(value, str) else json.dumps(value)
        rows.append(f"<tr><th>{html.escape(name)}</th><td>{html.escape(written)}</td></tr>")
    return f"<table>\n{''.join(rows)}\n</table>"


def _section(folder: Path, name: str, numbers: tuple[str, ...]) -> str:
    """What a notebook shows, without its code; a sentence if it was not executed."""
    executed = folder / "executed" / f"{name}.ipynb"
    if not executed.is_file():
        return f"<p>{name} was not executed for this run.</p>"
    notebook = nbformat.read(executed, as_version=4)
    made_of = _made_of(name, [folder / file for file in numbers])
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cells.append(cell)
        elif any(_is_shown(output) for output in cell.get("outputs", ())):
            cells.append(cell)
            cells.append(new_markdown_cell(made_of))
    return _rendered(cells)


def _rendered(cells: list[nbformat.NotebookNode]) -> str:
    """Cells as HTML, without code and prompts."""
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
        embed_images=True,
    )
    for place, cell in enumerate(cells):
        cell["id"] = str(place)  # not drawn at random, so that equal pages are equal bytes
    body, _ = exporter.from_notebook_node(new_notebook(cells=cells))
    return body


def _is_shown(output: dict[str, Any]) -> bool:
    return not set(SHOWN).isdisjoint(output.get("data", {}))


def _made_of(name: str, files: list[Path]) -> str:
    """The notebook and its numbers: file, hash, and the commit that computed them."""
    parts = []
    for file in files:
        if file.is_file():
            commit = results.load(file)["provenance"].get("git", "unknown")
            parts.append(f"{file.name} (sha256 {sha256(file)[:12]}, commit {str(commit)[:12]})")
    listed = ", ".join(parts) or "no saved numbers"
    return f'<p class="made-of">Notebook {name}; {html.escape(listed)}</p>'


def main(run: str) -> None:
    """Write the page and say where it is."""
    if may_show_patients({"run": run}):
        keep_private()
    page = build(run).relative_to(config.ROOT)
    print(f"{page}: the claims, tables and figures on one page")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except (FileNotFoundError, ValueError, OSError) as error:
        sys.exit(str(error))
