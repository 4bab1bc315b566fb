"""Notebooks are run with parameters they have, and a failure is one sentence with the copy kept."""

import nbformat
import pytest

from mcrlib.companion.execute import main


@pytest.fixture
def notebook(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("n = 1\nname = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('n is', n, repr(name))\nassert n, 'n must not be zero'"),
    ]
    path = tmp_path / "in.ipynb"
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_a_parameter_arrives_with_its_type(notebook, tmp_path, capfd):
    assert main([str(notebook), str(tmp_path / "a/out.ipynb"), "n=2.5", "name="]) == 0
    assert "n is 2.5 ''" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["m", "n; import os", "import os\nn", "__class__"])
def test_an_unknown_parameter_is_refused_before_anything_runs(notebook, tmp_path, capfd, name):
    assert main([str(notebook), str(tmp_path / "out.ipynb"), f"{name}=3"]) == 2
    message = capfd.readouterr().err
    assert f"has no parameter {name!r}; it has n, name." in message
    assert not (tmp_path / "out.ipynb").exists()


def test_a_failing_cell_is_one_sentence_and_its_copy_is_kept(notebook, tmp_path, capfd):
    assert main([str(notebook), str(tmp_path / "out.ipynb"), "n=0"]) == 1
    assert "AssertionError: n must not be zero" in capfd.readouterr().err
    assert "n must not be zero" in (tmp_path / "out.ipynb").read_text()


def test_a_missing_notebook_is_named(tmp_path, capfd):
    assert main([str(tmp_path / "none.ipynb"), str(tmp_path / "out.ipynb")]) == 2
    assert "none.ipynb" in capfd.readouterr().err
