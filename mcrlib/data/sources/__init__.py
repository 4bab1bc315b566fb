"""Where pairs come from. A source is a module with `rows(config)`, and perhaps `notes(config)`.

`rows` yields one `Row` an image; `notes` says what was found or assumed, a sentence each.
"""

import importlib
from types import ModuleType

MODULES = {"phantom": "phantom", "table": "table", "openi": "openi", "mimic": "mimic_cxr"}


def find(name: str) -> ModuleType:
    """The module of the source that is called `name` in the settings."""
    return importlib.import_module(f"{__name__}.{MODULES[name]}")
