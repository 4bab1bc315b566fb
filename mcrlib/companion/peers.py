"""Other people's trained models in a run's tables and figures.

`python -m mcrlib.companion.peers RUN NAME WEIGHTS` embeds the run's pairs with the dual encoder
WEIGHTS, a folder or a name on the hub, and saves them as those of a model NAME.
"""

import re
import sys
from pathlib import Path
from typing import Any

from mcrlib import config, results
from mcrlib.data.dataset import Dataset

# Libraries that take seconds to import are imported by the functions that embed: captions import
# this module.

SPLITS = ("validate", "test")
NAME = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9]+)*")
RESERVED = ("tfidf", "chance", "oracle", "floor", "ceiling")  # have rows of their own in tables


def check_name(name: str) -> None:
    """Raise ValueError for a name that a peer cannot have in tables."""
    if not NAME.fullmatch(name) or "-seed" in name.lower():
        raise ValueError(
            f"NAME={name} cannot be a model's name: use letters, digits and single dashes between "
            "them, without -seed, such as NAME=pubmedclip."
        )
    if name.lower() in (*config.VARIANTS, *RESERVED):
        raise ValueError(f"NAME={name} is the name of one of our models: choose another name.")


def add(run: str, name: str, weights: str) -> Path:
    """Embed the validation and test pairs of `run` with the model in `weights`; its folder.

    `weights` is a folder or a name on the hub. Embeddings of the same model and pairs are kept.
    Those of the same model and other pairs are made anew. Raises ValueError, FileNotFoundError or
    ModuleNotFoundError, in one sentence, for a name that is taken, a run without prepared pairs
    and a model that cannot be read.
    """
    from mcrlib.companion import dual_encoders

    check_name(name)
    if run == config.REFERENCE:
        raise ValueError("RUN=reference is a copy that only draws: use RUN=demo.")
    if not weights:
        raise ValueError("WEIGHTS is not set: give the model's folder or its name on the hub.")
    dataset = results.dataset_of_run(run)
    source = dual_encoders.find_folder(weights)
    made_from = {
        "dataset": dataset.info["dataset_sha256"][:16],
        "weights": dual_encoders.digest(source),
        results.PEER: name,
        "pairs": dataset.info["source"],
    }
    folder = config.ROOT / "results" / run / f"{name}-seed0"
    missing = [split for split in SPLITS if not _is_current(_file(folder, split), made_from)]
    if not missing:
        print(f"{folder} holds the embeddings of this model and these pairs: kept.", flush=True)
        return folder
    encoder = dual_encoders.open_encoder(source)
    print(f"{name}: {_described(encoder, dataset)}", flush=True)
    for split in missing:
        said = _embed(encoder, dataset, split, _file(folder, split), made_from)
        print(f"{split}: {said}", flush=True)
    return folder


def _file(folder: Path, split: str) -> Path:
    return folder / f"embeddings-{split}.npz"


def _is_current(file: Path, made_from: dict[str, str]) -> bool:
    """Whether these embeddings need not be made. Raises ValueError for another model's."""
    if not file.is_file():
        return False
    recorded = results.made_from(file)
    if results.PEER not in recorded:
        raise ValueError(
            f"{file} was not made by `make peer`: choose another NAME, or remove {file.parent}."
        )
    if recorded.get("weights") != made_from["weights"]:
        raise ValueError(
            f"{file} was made with other weights, configuration or tokenizer than WEIGHTS has now: "
            f"choose another NAME, or remove {file.parent} to have it made anew."
        )
    return recorded == made_from


def _described(encoder: Any, dataset: Dataset) -> str:
    """What the model is, and what its pictures lack."""
    side = encoder.side
    text = (
        f"{encoder.kind} on {encoder.device}, pictures of {side} pixels, texts of up to "
        f"{encoder.most_tokens} tokens."
    )
    prepared = dataset.images.shape[1]
    if prepared >= side:
        return text
    return (
        f"{text} The prepared pictures have only {prepared} pixels and are enlarged: `make data` "
        f"with SET='cache_size: {side}' prepares larger ones, for which all models of the run have "
        "to be made anew."
    )


def _embed(
    encoder: Any, dataset: Dataset, split: str, file: Path, made_from: dict[str, str]
) -> str:
    """Save the embeddings of a split; what was embedded, and what was cut, in words."""
    rows = dataset.indices(split)
    if not len(rows):
        raise ValueError(
            f"The {split} split of {dataset.folder} is empty: there is nothing to embed."
        )
    frame = dataset.frame.iloc[rows]
    texts = frame["report"].tolist()
    image = encoder.embed_images(dataset.images[rows])
    report = encoder.embed_reports(texts)
    results.save_embeddings(file, image, report, frame["pair_id"], made_from=made_from)
    cut = encoder.count_cut(texts)
    return (
        f"{len(rows):,} pairs, {image.shape[1]} dimensions, {cut:,} reports cut at "
        f"{encoder.most_tokens} tokens."
    )


def untold(run: str, split: str = "test") -> list[str]:
    """The peers, by folder name, of whom the run's pairs tell nothing: all if the pairs are drawn,
    because peers were trained on real pictures.

    Raises FileNotFoundError if the run has no embeddings, and ValueError if a file is damaged.
    """
    names = []
    for file in results.embedding_files(run, split).values():
        recorded = results.made_from(file)
        if results.PEER in recorded and recorded.get("pairs") in config.DRAWN_SOURCES:
            names.append(file.parent.name)
    return names


def note(run: str, split: str = "test") -> str:
    """A sentence for captions if some models cannot be judged by the run's pairs, else nothing."""
    names = [folder.removesuffix("-seed0") for folder in untold(run, split)]
    if not names:
        return ""
    return (
        f" What {', '.join(names)} can do cannot be told here: other people's models were trained "
        "on real pictures, and these are drawn."
    )


def main(arguments: list[str]) -> str | int:
    """Add the peer `RUN NAME WEIGHTS`; returns the exit code, or the sentence to exit with."""
    import transformers

    transformers.logging.set_verbosity_error()  # we say what is missing or left over
    transformers.logging.disable_progress_bar()
    run, name, weights = arguments
    try:
        folder = add(run, name, weights)
    except (ValueError, OSError, ImportError) as error:
        return str(error)
    shown = folder.relative_to(config.ROOT)
    print(f"{name} is in {shown}.")
    print(f"`make tables figures RUN={run}` shows it.{note(run)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
