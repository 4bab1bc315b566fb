"""Saved figures as a notebook shows them."""

import io
from pathlib import Path

import PIL.Image
from IPython.display import Image

COLUMN = 480  # pixels on the screen, for figures as wide as a column
FULL = 900  # for figures as wide as a page
SHARPNESS = 1.5  # pixels of the picture for each on the screen, for dense displays
COLOURS = 256


def show(stem: str | Path, width: int = FULL) -> Image:
    """The figure saved as `stem.png`, `width` pixels wide on the screen.

    The copy in the notebook has fewer pixels and colours than the file, so that an executed
    notebook stays small enough to be shown on GitHub. The caption saved as `stem.txt` is its
    alternative text.
    """
    picture = PIL.Image.open(f"{stem}.png").convert("RGB")
    pixels = round(SHARPNESS * width)
    height = round(picture.height * pixels / picture.width)
    small = picture.resize((pixels, height), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.quantize(COLOURS, dither=PIL.Image.Dither.NONE).save(buffer, "png", optimize=True)
    caption = Path(f"{stem}.txt")
    alternative = caption.read_text(encoding="utf-8").strip() if caption.is_file() else None
    return Image(buffer.getvalue(), width=width, alt=alternative)
