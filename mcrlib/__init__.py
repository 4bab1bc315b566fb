"""MCR: masked contrastive reconstruction for medical image-report retrieval (arXiv 2312.15840)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcrlib.model import MCR

__all__ = ["MCR"]


def __getattr__(name: str) -> Any:
    """Import the model only when it is asked for: PyTorch and timm take seconds."""
    if name == "MCR":
        from mcrlib.model import MCR

        return MCR
    raise AttributeError(f"module 'mcrlib' has no attribute {name!r}")
