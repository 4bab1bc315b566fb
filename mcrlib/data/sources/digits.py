"""Scanned digits in pictures, with sentences that say which digit is where (ours).

A domain without anatomy and without medicine: one to three digits, each in one of nine places and
of one of three sizes, on noise. Each digit is one of the 1,797 scans of handwriting, 8 x 8 in 17
grey levels, that scikit-learn ships (Alpaydin and Kaynak 1998, UCI Machine Learning Repository,
CC BY 4.0). No scan is in pictures of two splits.

A label is "digit|side|zone|severity", as phantoms write theirs; the severity is the size, and empty
for a digit of ordinary size. Left and right are those of the picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from mcrlib.config import Config
from mcrlib.data.schema import SPLITS, Row

__all__ = ["NAMES", "Digit", "draw", "place", "rows", "scans", "sentences"]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDES = ("left", "centre", "right")
ZONES = ("upper", "middle", "lower")
SIZES = {"small": 16, "": 20, "large": 24}  # side of a digit in pixels, in a picture of 96
PICTURE = 96
SCAN = 8  # pixels, side of a scan
WHITE = 16  # the brightest grey level of a scan
COUNTS = (1, 2, 2, 3, 3)  # digits of a picture, all equally likely
FIFTHS = {"train": (0, 3), "validate": (3, 4), "test": (4, 5)}  # of all scans, from and up to
FILLER_SHARE = 0.3  # of the reports have a sentence that says nothing about the digits
# The source of every pair. Raise the number whenever pictures or sentences change: data prepared
# with an earlier one is then drawn again.
SOURCE = "digits, drawing 1"

SIZE_NAMES = {"small": ("small", "little", "tiny"), "": ("",), "large": ("large", "big")}
PLACE_NAMES = {
    ("left", "upper"): ("in the upper left", "at the top left", "in the upper left corner"),
    ("centre", "upper"): ("in the upper centre", "at the top, in the centre"),
    ("right", "upper"): ("in the upper right", "at the top right", "in the upper right corner"),
    ("left", "middle"): ("in the middle left", "on the left, halfway down"),
    ("centre", "middle"): ("in the middle", "in the centre", "in the very middle"),
    ("right", "middle"): ("in the middle right", "on the right, halfway down"),
    ("left", "lower"): ("in the lower left", "at the bottom left", "in the lower left corner"),
    ("centre", "lower"): ("in the lower centre", "at the bottom, in the centre"),
    ("right", "lower"): ("in the lower right", "at the bottom right", "in the lower right corner"),
}
PLACES = tuple(PLACE_NAMES)
FRAMES = (
    "{what} {where}.",
    "There is {what} {where}.",
    "{where}: {what}.",
    "{what} is {where}.",
    "You can see {what} {where}.",
)
FILLERS = (
    "Nothing else is there.",
    "The rest is noise.",
    "No other digit can be seen.",
)


@dataclass(frozen=True)
class Digit:
    """A digit of a picture: which scan, and what its label says."""

    scan: int  # its row in `scans`
    name: str  # one of NAMES
    side: str
    zone: str
    severity: str  # a key of SIZES

    @property
    def label(self) -> str:
        """Its name in a row's labels: "digit|side|zone|severity"."""
        return "|".join([self.name, self.side, self.zone, self.severity])


@cache
def scans() -> tuple[np.ndarray, np.ndarray]:
    """All scans, grey levels 0 to 16, int64 [1797, 8, 8], and which digit each is, int64 [1797]."""
    from sklearn.datasets import load_digits  # imported lazily: slow, and other sources need none

    bundled = load_digits()
    return bundled.images.astype(np.int64), bundled.target.astype(np.int64)


def draw(seed: Sequence[int], digits: Sequence[Digit], size: int) -> np.ndarray:
    """The picture uint8 [size, size] with these digits. `seed` seeds the noise, each digit's
    brightness and its shift within its place. All arithmetic is in whole numbers, so that the
    picture is the same on every machine."""
    rng = np.random.default_rng([*seed, 1])
    darkest = rng.integers(0, 50)
    noise = rng.integers(0, 60, (size, size))
    picture = darkest + noise
    for digit in digits:
        rows, columns = place(seed, digit, size)
        ink = _enlarged(scans()[0][digit.scan], rows.stop - rows.start)
        brightness = rng.integers(110, 180)
        picture[rows, columns] += ink * brightness // 255
    return np.minimum(picture, 255).astype(np.uint8)


def place(seed: Sequence[int], digit: Digit, size: int) -> tuple[slice, slice]:
    """The rows and the columns that a digit fills in the picture that `draw` draws."""
    row = ZONES.index(digit.zone)
    column = SIDES.index(digit.side)
    rng = np.random.default_rng([*seed, 2, row, column])
    side = SIZES[digit.severity] * size // PICTURE
    cell = size // len(ZONES)
    largest_shift = cell - side
    down, right = rng.integers(0, largest_shift + 1, 2).tolist()
    top = row * cell + down
    left = column * cell + right
    return slice(top, top + side), slice(left, left + side)


def _enlarged(scan: np.ndarray, side: int) -> np.ndarray:
    """A scan at another size, 0 to 255, int64 [side, side]: bilinear, in whole numbers."""
    # A pixel's centre among those of the scan, in units in which two of these are 2 * side apart.
    unit = 2 * side
    pixels = np.arange(side)
    centres = (2 * pixels + 1) * SCAN - side
    centres = centres.clip(0, (SCAN - 1) * unit)
    before = np.minimum(centres // unit, SCAN - 2)
    beyond = centres - before * unit
    weights = np.zeros((side, SCAN), np.int64)
    weights[pixels, before] = unit - beyond
    weights[pixels, before + 1] = beyond
    enlarged = weights @ scan @ weights.T
    return 255 * enlarged // (WHITE * unit**2)


def rows(config: Config) -> Iterator[Row]:
    """Pictures with digits, `config.sizes` of them in train, validate and test, one a patient; the
    same for the same `sizes`, `cache_size` and `data_seed`."""
    for split_number, split in enumerate(SPLITS):
        by_name = _scans_of_split(config.data_seed, split)
        for number in range(config.sizes[split_number]):
            seed = (config.data_seed, 2, split_number, number)
            rng = np.random.default_rng([*seed, 0])
            digits = _choose(rng, by_name)
            picture = f"{split}-picture-{number:05d}"
            yield Row(
                pair_id=f"{split}-{number:05d}",
                patient_id=picture,
                study_id=picture,
                split=split,
                view="unstated",
                source=SOURCE,
                text=sentences(rng, digits),
                labels=[digit.label for digit in digits],
                image=partial(draw, seed, digits, config.cache_size),
            )


def _scans_of_split(data_seed: int, split: str) -> dict[str, np.ndarray]:
    """The scans that a split draws from, by the name of their digit."""
    _, targets = scans()
    order = np.random.default_rng([data_seed, 1]).permutation(len(targets))
    first, end = FIFTHS[split]
    start = first * len(order) // 5
    stop = end * len(order) // 5
    own = order[start:stop]
    by_name = {}
    for number, name in enumerate(NAMES):
        shows_it = targets[own] == number
        by_name[name] = own[shows_it]
    return by_name


def _choose(rng: np.random.Generator, by_name: dict[str, np.ndarray]) -> list[Digit]:
    """One to three different digits in different places, each of a random size."""
    count = COUNTS[rng.integers(len(COUNTS))]
    numbers = rng.permutation(len(NAMES))[:count]
    places = rng.permutation(len(PLACES))[:count]
    digits = []
    for number, place_number in zip(numbers, places, strict=True):
        name = NAMES[number]
        side, zone = PLACES[place_number]
        severity = _pick(rng, list(SIZES))
        scan = int(_pick(rng, by_name[name]))
        digits.append(Digit(scan, name, side, zone, severity))
    return digits


def sentences(rng: np.random.Generator, digits: Sequence[Digit]) -> str:
    """Which digit is where: a sentence for each, in random order and wording."""
    said = [_sentence(rng, digit) for digit in digits]
    if rng.random() < FILLER_SHARE:
        said.append(_pick(rng, FILLERS))
    return " ".join(rng.permutation(said).tolist())


def _sentence(rng: np.random.Generator, digit: Digit) -> str:
    size = _pick(rng, SIZE_NAMES[digit.severity])
    words = [size, digit.name] if size else [digit.name]
    article = "an" if words[0] == "eight" else "a"
    what = " ".join([article, *words])
    where = _pick(rng, PLACE_NAMES[digit.side, digit.zone])
    frame = _pick(rng, FRAMES)
    sentence = frame.format(what=what, where=where)
    return sentence[0].upper() + sentence[1:]


def _pick(rng: np.random.Generator, choices: Sequence) -> str:
    return choices[rng.integers(len(choices))]
