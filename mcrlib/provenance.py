"""What made a number: code, packages, device and memory."""

import functools
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from typing import Any

from mcrlib import config

PACKAGES = ("torch", "timm", "transformers", "accelerate", "numpy", "scikit-learn", "pycocoevalcap")


def peak_memory() -> float:
    """Peak memory so far, in gigabytes: of the GPU's allocator if there is a GPU, otherwise of this
    process."""
    import torch  # imported lazily: slow, and not needed for redrawing

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * unit / 1e9


# Cached from the first save on, since a saved number that git tracks makes the tree dirty.
@functools.cache
def environment() -> dict[str, Any]:
    """Commit and whether tracked files differ from it (`git`, `dirty`), version of `python`, those
    of `packages`, and the `device`. Without git, the commit is "unknown"."""
    import torch  # imported lazily: slow, and not needed for redrawing

    changes = _git("status", "--porcelain", "--untracked-files=no")
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU, {platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "git": _git("rev-parse", "HEAD"),
        "dirty": changes != "",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": device,
    }


def _git(*words: str) -> str:
    """What a git command prints, "unknown" if it fails."""
    done = subprocess.run(["git", *words], cwd=config.ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        return "unknown"
    return done.stdout.strip()
