"""What may go wrong with a pair at test time: pure functions on pictures and reports (ours).

Noise, blur and exposure follow the corruptions of ImageNet-C (Hendrycks and Dietterich, 2019), at
strengths for radiographs; patches are hidden as MAE (He et al., 2022) drops them in training.

Each pair draws its own random numbers, by the corruption's name: all models see the same corrupted
pairs. They do not depend on the strength, so that a stronger corruption is more of the same: what
half of the patches hide, three quarters hide too.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array
from PIL import Image, ImageFilter

from mcrlib import masking
from mcrlib.evaluation.finding_rules import split_into_sentences

HIDDEN_PATCHES = "hidden patches"
GREY_PATCHES = "grey patches"
MISSING_SENTENCES = "missing sentences"
NOISE = "noise"
EXPOSURE = "exposure"
TURN = "turn"
BLUR = "blur"
OTHER_VIEW = "other view"

# Corruption -> its strengths. Shares of the patches or sentences; standard deviation of the noise,
# as a share of the grey levels; factors of two of the exposure; degrees; standard deviation of the
# blur, as a share of the picture's side. The other view has no strength.
STRENGTHS = {
    HIDDEN_PATCHES: (0.25, 0.5, 0.75),
    GREY_PATCHES: (0.25, 0.5, 0.75),
    MISSING_SENTENCES: (0.25, 0.5, 0.75),
    NOISE: (0.05, 0.1, 0.2),
    EXPOSURE: (0.25, 0.5, 1.0),
    TURN: (5.0, 10.0, 20.0),
    BLUR: (0.01, 0.02, 0.04),
    OTHER_VIEW: (1.0,),
}
SHARES = (HIDDEN_PATCHES, GREY_PATCHES, MISSING_SENTENCES, NOISE, BLUR)  # written in %


class Condition(NamedTuple):
    """A corruption at one strength."""

    corruption: str
    strength: float

    @property
    def name(self) -> str:
        """Such as "hidden patches 50 %"; "unchanged" of pairs as they are."""
        return f"{self.corruption} {self.label}".strip()

    @property
    def label(self) -> str:
        """The strength with its unit."""
        if self.corruption in SHARES:
            return f"{100 * self.strength:g} %"
        if self.corruption == EXPOSURE:
            return f"±{self.strength:g}"
        if self.corruption == TURN:
            return f"{self.strength:g}°"
        return ""


UNCHANGED = Condition("unchanged", 0.0)
HALF_HIDDEN = Condition(HIDDEN_PATCHES, 0.5)


def conditions() -> list[Condition]:
    """Pairs as they are, then every corruption at every strength."""
    listed = [UNCHANGED]
    for corruption, strengths in STRENGTHS.items():
        listed += [Condition(corruption, strength) for strength in strengths]
    return listed


def pair_generator(corruption: str, pair_id: str, seed: int = 0) -> np.random.Generator:
    """Random numbers of one pair for one corruption, whatever its strength."""
    return masking.pair_generator(seed, 0, f"{corruption}/{pair_id}")


def kept_patches(pair_ids: Sequence[str], patches: int, hidden: float, seed: int = 0) -> Array:
    """Indices int64 `[N, k]` of the patches of each picture that are not hidden, ascending.

    `hidden` is the share of the `patches` of a picture that the encoder does not get. At least one
    patch stays. Grey patches use the same draw as hidden ones.
    """
    kept = []
    for pair_id in pair_ids:
        generator = pair_generator(HIDDEN_PATCHES, pair_id, seed)
        kept.append(masking.keep_patches(patches, hidden, generator))
    return np.stack(kept)


def paint_patches(picture: Array, kept: Array, side: int) -> Array:
    """The picture uint8 `[S, S]` with all patches but the `kept` ones in its mean grey.

    There are `side` patches in a row; they are numbered row by row.
    """
    edges = np.linspace(0, len(picture), side + 1).round().astype(int)
    lengths = np.diff(edges)
    is_kept = np.zeros((side, side), bool)
    is_kept.flat[kept] = True
    by_row = is_kept.repeat(lengths, axis=0)
    by_pixel = by_row.repeat(lengths, axis=1)
    grey = np.uint8(round(picture.mean()))
    return np.where(by_pixel, picture, grey)


def add_noise(picture: Array, deviation: float, generator: np.random.Generator) -> Array:
    """The picture uint8 `[S, S]` with normal noise; `deviation` is a share of the grey levels."""
    noise = 255 * deviation * generator.standard_normal(picture.shape)
    return _to_grey_levels(picture + noise)


def expose(picture: Array, stops: float, generator: np.random.Generator) -> Array:
    """The picture uint8 `[S, S]` over- or underexposed: the film's depth times 2 ** ±`stops`.

    The film is bright where the depth is large: brightness is 1 - exp(-depth). Which of the two it
    is, the generator draws.
    """
    sign = generator.choice((-1, 1))
    factor = 2.0 ** (sign * stops)
    light = 1.0 - picture / 255
    return _to_grey_levels(255 * (1.0 - light**factor))


def turn(picture: Array, degrees: float, generator: np.random.Generator) -> Array:
    """The picture uint8 `[S, S]` turned about its centre to a drawn side; its border is repeated,
    so that no black corners tell the angle."""
    sign = generator.choice((-1, 1))
    margin = len(picture) // 4  # corners are 0.21 of the side further out than edges
    wide = Image.fromarray(np.pad(picture, margin, mode="edge"))
    turned = wide.rotate(sign * degrees, resample=Image.Resampling.BILINEAR)
    end = margin + len(picture)
    return np.asarray(turned)[margin:end, margin:end]


def blur(picture: Array, deviation: float, generator: np.random.Generator) -> Array:
    """The picture uint8 `[S, S]` under a Gaussian blur; `deviation` is a share of its side.

    Nothing is drawn.
    """
    radius = deviation * len(picture)
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def drop_sentences(report: str, share: float, generator: np.random.Generator) -> str:
    """The report without a random `share` of its sentences, rounded down to leave more of it.

    Never all: at least one sentence stays, so that a report of one sentence stays whole. Sentences
    are those of `finding_rules`.
    """
    sentences = [sentence.text for sentence in split_into_sentences(report)]
    dropped = min(int(share * len(sentences)), len(sentences) - 1)
    if dropped <= 0:
        return report
    order = generator.permutation(len(sentences))
    stay = sorted(order[dropped:].tolist())
    return " ".join(sentences[place] for place in stay)


# Corruptions of the picture alone
PICTURE: dict[str, Callable[[Array, float, np.random.Generator], Array]] = {
    NOISE: add_noise,
    EXPOSURE: expose,
    TURN: turn,
    BLUR: blur,
}


def corrupt_pictures(
    condition: Condition, pictures: Array, pair_ids: Sequence[str], seed: int = 0
) -> Array:
    """Pictures uint8 `[N, S, S]` under a corruption of PICTURE; row i is the pair `pair_ids[i]`."""
    corrupt = PICTURE[condition.corruption]
    corrupted = []
    for picture, pair_id in zip(pictures, pair_ids, strict=True):
        generator = pair_generator(condition.corruption, pair_id, seed)
        corrupted.append(corrupt(picture, condition.strength, generator))
    return np.stack(corrupted)


def shorten_reports(
    reports: Sequence[str], pair_ids: Sequence[str], share: float, seed: int = 0
) -> list[str]:
    """Each report without a `share` of its sentences, as `drop_sentences` drops them."""
    shortened = []
    for report, pair_id in zip(reports, pair_ids, strict=True):
        generator = pair_generator(MISSING_SENTENCES, pair_id, seed)
        shortened.append(drop_sentences(report, share, generator))
    return shortened


def _to_grey_levels(values: Array) -> Array:
    """Numbers as uint8, rounded, those out of range clipped."""
    return values.clip(0, 255).round().astype(np.uint8)
