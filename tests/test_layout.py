"""The layout that the docs describe: imports point one way, and the model imports quickly."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mcrlib"
# Bottom layer first: a module imports only from its own layer and from layers before it.
LAYERS = (
    ("arguments", "files", "locks", "config"),
    ("masking", "packing", "data"),
    ("losses", "distributed", "modules", "explain", "weight_files", "pretrained", "model"),
    ("evaluation",),
    ("provenance", "results"),
    ("training",),
    ("tables", "plots", "sheets"),
    ("companion",),
)
LAYER = {name: height for height, names in enumerate(LAYERS) for name in names}


def modules():
    for file in sorted(PACKAGE.rglob("*.py")):
        if file != PACKAGE / "__init__.py":
            yield file


def imported(file):
    """The modules of mcrlib that a file imports, at the top level or inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mcrlib"):
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("mcrlib."):
                    yield alias.name


def test_imports_point_one_way():
    for file in modules():
        own = file.relative_to(PACKAGE).with_suffix("").parts[0]
        for name in imported(file):
            other = name.split(".")[1]
            if other in LAYER:  # not `from mcrlib import MCR`
                assert LAYER[other] <= LAYER[own], f"{file} imports {name}"


def graph():
    """Module -> modules of mcrlib that it imports, at the top level or inside functions."""
    names = {}
    for file in modules():
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = file
    edges = {}
    for name, file in names.items():
        targets = set()
        for target in imported(file):
            while target not in names and "." in target:
                target = target.rpartition(".")[0]
            targets.add(target)
        edges[name] = targets & names.keys() - {name}
    return edges


def test_no_two_modules_import_each_other():
    edges = graph()

    def reachable(start):
        seen, queue = set(), [start]
        while queue:
            for target in edges[queue.pop()]:
                if target not in seen:
                    seen.add(target)
                    queue.append(target)
        return seen

    for name in edges:
        assert name not in reachable(name), f"{name} imports itself in a circle"


def test_importing_the_model_loads_no_library_that_only_others_need():
    """And `import mcrlib` alone does not load PyTorch."""
    code = (
        "import sys, mcrlib\n"
        "assert 'torch' not in sys.modules\n"
        "from mcrlib import MCR\n"
        "heavy = {'matplotlib', 'seaborn', 'spacy', 'papermill', 'pyarrow', 'nltk'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
