"""The examples of docs/extend.md, applied as written to a copy of the package and run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
EXTEND = (ROOT / "docs" / "extend.md").read_text()
EXAMPLES = re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", EXTEND, re.MULTILINE | re.DOTALL)
LONGEST = 30  # lines that the reader adds


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def copy(tmp_path, dataset):
    """A copy of the project with the smoke run's pairs, and a folder of radiographs with texts."""
    for name in ("mcrlib", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(dataset.folder, tmp_path / "data" / "smoke")
    scans = tmp_path / "scans"
    scans.mkdir()
    reports = dataset.frame["report"].tolist()
    for row in range(200):
        name = f"patient{row}_study{row}"
        Image.fromarray(dataset.images[row]).save(scans / f"{name}.png")
        (scans / f"{name}.txt").write_text(f"FINDINGS: {reports[row]}")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


def run(copy: Path, *command: str) -> str:
    """Output of a command that runs in the copy, in the environment of these tests."""
    binaries = Path(sys.executable).parent
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "MCR_HOME": str(copy),
        "MCR_PLAIN": "1",
        "VIRTUAL_ENV": str(binaries.parent),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_the_example_runs_as_written(copy, title, text):
    (diff,) = blocks(text, "diff")
    added = [line for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert 0 < len(added) < LONGEST
    (copy / "example.diff").write_text(diff)
    run(copy, "git", "apply", "example.diff")
    for commands in blocks(text, "console"):
        for command in commands.strip().splitlines():
            output = run(copy, "bash", "-c", command)
    assert "epoch  1/1" in output


def test_there_are_three_examples():
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "benchmarks"]
)
def test_links_have_a_target(page):
    path = ROOT / page
    pages = [path] if path.is_file() else sorted(path.glob("*.md"))
    for page in pages:
        targets = re.findall(r"\]\(([^)#]+?)\)|src=\"(.+?)\"", page.read_text())
        for target in (one or other for one, other in targets):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_fits_a_few_screens():
    assert len((ROOT / "README.md").read_bytes()) <= 8 * 1024
