"""Where pairs come from.

A source is a module with a function `rows(config)`, which yields one `Row` an image. It may also
have `notes(config)`: sentences that say what it found or assumed.
"""

import importlib
from types import ModuleType

# Name in the settings -> module in this folder.
MODULES = {
    "phantom": "phantom",
    "digits": "digits",
    "table": "table",
    "openi": "openi",
    "mimic": "mimic_cxr",
}


def find(name: str) -> ModuleType:
    """The module of the source that the settings call `name`; imported only when it is used."""
    module = MODULES[name]
    return importlib.import_module(f"{__name__}.{module}")


def find_edits(name: str) -> ModuleType | None:
    """The module `edits` of a source that draws its pairs and can change one thing in them, with a
    function `of_split(config, split)`; None if the source has none."""
    if name == "phantom":
        return importlib.import_module(f"{__name__}.phantom.edits")
    return None
