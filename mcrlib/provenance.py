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
    """Most gigabytes so far: of the GPU's allocator where there is one, else of this process."""
    import torch  # here, since drawing does without these seconds

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # bytes, or KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


@functools.cache  # as it was before the first save: a tracked number makes the tree dirty
def environment() -> dict[str, Any]:
    import torch

    def git(*words: str) -> str:
        answer = subprocess.run(["git", *words], cwd=config.ROOT, capture_output=True, text=True)
        return answer.stdout.strip() if answer.returncode == 0 else "unknown"

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "git": git("rev-parse", "HEAD"),
        "dirty": git("status", "--porcelain", "--untracked-files=no") != "",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": gpu or f"CPU, {platform.machine()}, {torch.get_num_threads()} threads",
    }
