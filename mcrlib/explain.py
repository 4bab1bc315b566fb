"""Why a radiograph and a report match: what patches and words contribute to their cosine (ours).

A model that maps local features before it aggregates them (MbA) needs no heuristic for this. With
the weights w of the aggregation, S^v is the sum over patches l of c_l = w_l * F(x_l), and S^r the
sum over tokens t of d_t, so that the cosine is a sum over all of them:

    cos(S^v, S^r) = sum over l, t of <c_l, d_t> / (|S^v| |S^r|)

Contributions are exact and signed; their absolute values can add up to several times the cosine.
They are those of the encoder's *output* tokens, each of which has seen the whole picture or report:
a large contribution does not prove that its patch is the cause. *Occlusion* asks that instead: by
how much does the cosine fall without this patch or word? Every model can be asked; of models that
aggregate first (AbM) nothing else is known.

Shapes are named as in `mcrlib.model`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import BertTokenizer

from mcrlib.config import Config
from mcrlib.data import batches
from mcrlib.modules import Head, ImageEncoder, ReportEncoder

EXACT = "exact"
OCCLUSION = "occlusion"
METHODS = (EXACT, OCCLUSION)
AT_ONCE = 64  # pictures or reports encoded in one call


class Word(NamedTuple):
    """A word of the report and what it contributes."""

    text: str  # as the report has it
    span: tuple[int, int]  # its characters in the report: the first, and the one after the last
    share: float  # of the cosine; by occlusion, the fall of the cosine without the word


@dataclass(frozen=True)
class Explanation:
    """What the patches of one radiograph and the words of one report contribute to their cosine.

    Exact contributions add up: `matrix` to the `score`, and so do `patches` with `matrix[0]`.
    """

    method: str  # EXACT or OCCLUSION
    score: float  # the cosine
    patches: Tensor  # [side, side], row by row: shares of the cosine, or its falls
    words: list[Word]  # in the report's order, without [CLS] and [SEP]
    # [1+n, T]: row 0 is the image's [CLS], then the patches row by row; the first column is the
    # report's [CLS], the last is [SEP]. None by occlusion, whose falls do not add up to anything.
    matrix: Tensor | None


class DualEncoder(Protocol):
    """What is needed of a model: `mcrlib.model.MCR` has it."""

    config: Config
    tokenizer: BertTokenizer
    image_encoder: ImageEncoder
    report_encoder: ReportEncoder
    image_head: Head
    report_head: Head
    project_images: Callable[..., Tensor]
    project_reports: Callable[..., Tensor]


class WordPlace(NamedTuple):
    """Where a word is."""

    span: tuple[int, int]  # its characters in the report
    tokens: list[int]  # its sub-words' positions among the report's tokens


@torch.no_grad()
def explain_pair(
    model: DualEncoder, pixels: Tensor, report: str, method: str | None = None
) -> Explanation:
    """The explanation of one picture, `pixels [1, H, W]` as the model takes them, and one report.

    `method` is EXACT or OCCLUSION; by default EXACT if the model has it. The model is in evaluation
    mode. Raises ValueError for another method, for one that the model does not have, and for a
    report without text.
    """
    method = _checked(model, method)
    if not report.strip():
        raise ValueError("The report is empty, so there is nothing to explain: give its text.")
    (ids,) = batches.tokenize(model.tokenizer, [report], model.config.max_tokens)
    tokens = torch.tensor([ids], device=pixels.device)
    places = word_places(model.tokenizer, report, len(ids))
    if method == EXACT:
        return _exactly(model, pixels, report, tokens, places)
    return _by_occlusion(model, pixels, report, tokens, places)


def is_exact(model: DualEncoder) -> bool:
    """Whether the model's cosines are sums of contributions."""
    return model.image_head.adds_up and model.report_head.adds_up


def _checked(model: DualEncoder, method: str | None) -> str:
    if method is None:
        return EXACT if is_exact(model) else OCCLUSION
    if method not in METHODS:
        raise ValueError(f"method must be {EXACT!r} or {OCCLUSION!r}, not {method!r}.")
    if method == EXACT and not is_exact(model):
        raise ValueError(
            "This model's cosines are no sums of contributions, because it does not map local "
            f"features before a weighted sum of them: use method={OCCLUSION!r}."
        )
    return method


# Exactly


def image_parts(model: DualEncoder, pixels: Tensor) -> Tensor:
    """c_l / |S^v| `[B, 1+n, E]` of `pixels [B, 1, H, W]`: [CLS], then the patches row by row."""
    return model.image_head.contributions(model.image_encoder(pixels))


def report_parts(model: DualEncoder, tokens: Tensor, present: Tensor) -> Tensor:
    """d_t / |S^r| `[B, T, E]` of `tokens [B, T]`; 0 at padding."""
    return model.report_head.contributions(model.report_encoder(tokens, present), present)


def _exactly(
    model: DualEncoder,
    pixels: Tensor,
    report: str,
    tokens: Tensor,
    places: list[WordPlace],
) -> Explanation:
    (of_image,) = image_parts(model, pixels[None]).double()
    (of_report,) = report_parts(model, tokens, torch.ones_like(tokens, dtype=torch.bool)).double()
    matrix = (of_image @ of_report.T).cpu()
    score = of_image.sum(dim=0) @ of_report.sum(dim=0)
    by_token = matrix.sum(dim=0)
    by_word = [by_token[place.tokens].sum() for place in places]
    patches = matrix[1:].sum(dim=1)
    words = _with_shares(report, places, by_word)
    return Explanation(EXACT, score.item(), _as_square(patches), words, matrix)


# By occlusion


def without_each_patch(pixels: Tensor, patch_size: int) -> Tensor:
    """`[n, 1, H, W]`: the picture `pixels [1, H, W]` with one patch after the other set to the
    picture's mean grey."""
    side = pixels.shape[-1] // patch_size
    one_patch = torch.eye(side * side, device=pixels.device).view(-1, 1, side, side)
    rows_filled = one_patch.repeat_interleave(patch_size, dim=2)
    is_hidden = rows_filled.repeat_interleave(patch_size, dim=3).bool()
    return pixels.mean().where(is_hidden, pixels)


def without_each_word(places: Sequence[WordPlace], tokens: int) -> Tensor:
    """`masked [words, T]`: true at the tokens of one word after the other, which the encoder then
    sees as [MASK], as in training."""
    masked = torch.zeros(len(places), tokens, dtype=torch.bool)
    for word, place in enumerate(places):
        masked[word, place.tokens] = True
    return masked


def embed_without_patches(model: DualEncoder, pixels: Tensor) -> Tensor:
    """Unit rows `[n, E]` of the picture `pixels [1, H, W]` without one patch after the other."""
    pictures = without_each_patch(pixels, model.config.patch_size)
    return torch.cat([model.project_images(some) for some in pictures.split(AT_ONCE)])


def embed_without_words(model: DualEncoder, tokens: Tensor, places: Sequence[WordPlace]) -> Tensor:
    """Unit rows `[words, E]` of the report `tokens [1, T]` without one word after the other."""
    rows = [torch.empty(0, model.config.embed_dim, device=tokens.device)]  # of no words
    masked = without_each_word(places, tokens.shape[1]).to(tokens.device)
    for some in masked.split(AT_ONCE):
        if len(some):
            same = tokens.expand(len(some), -1)
            rows.append(model.project_reports(same, torch.ones_like(some), some))
    return torch.cat(rows)


def _by_occlusion(
    model: DualEncoder,
    pixels: Tensor,
    report: str,
    tokens: Tensor,
    places: list[WordPlace],
) -> Explanation:
    (of_image,) = model.project_images(pixels[None])
    (of_report,) = model.project_reports(tokens, torch.ones_like(tokens, dtype=torch.bool))
    score = of_image @ of_report
    by_patch = score - embed_without_patches(model, pixels) @ of_report
    by_word = score - embed_without_words(model, tokens, places) @ of_image
    words = _with_shares(report, places, by_word)
    return Explanation(OCCLUSION, score.item(), _as_square(by_patch.cpu()), words, matrix=None)


# Patches and words


def word_places(tokenizer: BertTokenizer, report: str, tokens: int) -> list[WordPlace]:
    """The words of a report of which `tokens` tokens, [CLS] and [SEP] among them, were kept.

    A punctuation mark is a word. Words that were cut off are not listed.
    """
    encoded = tokenizer.backend_tokenizer.encode(report)
    sub_words: dict[int, list[int]] = {}
    for position in range(1, tokens - 1):
        word = encoded.word_ids[position]
        sub_words.setdefault(word, []).append(position)
    places = []
    for positions in sub_words.values():
        start = encoded.offsets[positions[0]][0]
        end = encoded.offsets[positions[-1]][1]
        places.append(WordPlace((start, end), positions))
    return places


def _with_shares(report: str, places: Sequence[WordPlace], shares: Sequence[Tensor]) -> list[Word]:
    words = []
    for place, share in zip(places, shares, strict=True):
        start, end = place.span
        words.append(Word(report[start:end], place.span, share.item()))
    return words


def _as_square(patches: Tensor) -> Tensor:
    side = round(len(patches) ** 0.5)
    return patches.view(side, side)
