"""A trained model as others open it: small, with a card that says what it is (ours).

`save` writes the folder that `MCR.from_pretrained` opens, `push_to_hub` puts it on the hub. Weights
are safetensors only, which run no code when they are opened.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from mcrlib import config, results
from mcrlib.config import DRAWN_SOURCES, Config
from mcrlib.files import write
from mcrlib.model import MCR

CARD_FILE = "README.md"
# Their licences let anybody pass on what was learned from them. That of MIMIC-CXR does not.
OPEN_SOURCES = (*DRAWN_SOURCES, "openi")
UPLOADED = ("*.safetensors", "*.json", CARD_FILE)
RECALLS = ("R@1", "R@5", "R@10")
DIRECTIONS = {
    "image_to_report": "Reports for a radiograph",
    "report_to_image": "Radiographs for a report",
}


def save(model: MCR, folder: Path, run: str, model_name: str, half: bool = False) -> None:
    """Write the model and its card into `folder`; with `half`, weights take half the space.

    The card's numbers are those of `model_name` (such as "mcr-seed0") in the results of `run`.
    Raises FileNotFoundError if that model is not trained.
    """
    text = card(model.config, run, model_name)
    dtype = torch.float16 if half else None
    model.save_pretrained(folder, dtype=dtype)
    write(folder / CARD_FILE, text.encode())


def push_to_hub(
    model: MCR,
    repository: str,
    run: str,
    model_name: str,
    *,
    may_share_patients: bool = False,
    api: HfApi | None = None,
) -> None:
    """Put the model and its card into a private `repository`, such as "me/mcr-mimic", of the hub.

    You make it public there. Raises ValueError for a model of patients' data that is not open, such
    as MIMIC-CXR, unless `may_share_patients` says that your data's licence allows it;
    FileNotFoundError if the model is not trained; and what the hub's library raises, such as for a
    missing login (`hf auth login`).
    """
    source = model.config.source
    if source not in OPEN_SOURCES and not may_share_patients:
        raise ValueError(
            f"This model was trained on the source {source!r}, from whose patients its weights may "
            "give something away: give may_share_patients=True if the data's licence allows "
            "sharing them. That of MIMIC-CXR allows it among its credentialed users only."
        )
    api = api or HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder), run, model_name)
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(UPLOADED))


def card(settings: Config, run: str, model_name: str) -> str:
    """The model card in Markdown, with numbers read from the run's results.

    Raises FileNotFoundError if the model is not trained.
    """
    training = results.load(config.ROOT / "results" / run / model_name / "training.json")
    parts = [
        _front_matter(),
        f"# {settings.variant} of the run {settings.run}",
        _description(settings),
        _usage(),
        "## How it was trained",
        _training(settings, training),
        "## What was measured",
        _recalls(run, settings.variant, model_name),
        "## What it is not for",
        _limits(settings),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter() -> str:
    tags = ["chest-x-ray", "image-text-retrieval", "masked-contrastive-reconstruction"]
    lines = ["---", "library_name: mcrlib", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    return "\n".join([*lines, "---"])


def _description(settings: Config) -> str:
    return (
        "It embeds chest radiographs and their reports into one space of "
        f"{settings.embed_dim} dimensions, where a pair lies close together. The method is masked "
        "contrastive reconstruction (arXiv 2312.15840), as mcrlib implements it; `mcr` is the "
        "method, and other names are its baselines and ablations."
    )


def _usage() -> str:
    lines = [
        "```python",
        "from mcrlib import MCR",
        "",
        'model = MCR.from_pretrained("this folder")',
        'image = model.embed_images("radiograph.png")  # [1, E]',
        'report = model.embed_reports("No pleural effusion.")  # [1, E]',
        "print(image @ report.T)  # their cosine",
        "```",
    ]
    return "\n".join(lines)


def _training(settings: Config, training: dict[str, Any]) -> str:
    values = training["values"]
    provenance = training["provenance"]
    data = f"pairs of the source `{settings.source}`, which are patients' data"
    if settings.source in DRAWN_SOURCES:
        data = "pairs that are drawn and written by code; no patient's data went into it"
    image_encoder = settings.vision or "a small ViT, from scratch"
    report_encoder = settings.text or "a small BERT, from scratch"
    best_epoch = values["best_epoch"]
    minutes = values["seconds"] / 60
    told = {
        "Data": data,
        "Encoders": f"{image_encoder}; {report_encoder}",
        "Best epoch on the validation split": f"{best_epoch}; seed {settings.seed}",
        "Time": f"{minutes:.0f} minutes on {provenance['device']}",
        "Code": f"commit {provenance['git']}",
    }
    rows = [f"- {name}: {value}." for name, value in told.items()]
    return "\n".join(rows)


def _recalls(run: str, variant: str, model_name: str) -> str:
    """The model's Recall@K on the test split with its interval; without numbers, how to get them.

    The numbers are under the variant's name alone if no other seed of it is embedded.
    """
    try:
        measured = results.load(config.ROOT / "results" / run / "retrieval.json")["values"]
    except FileNotFoundError:
        measured = {}
    block = measured.get(model_name) or measured.get(variant)
    if block is None:
        return "Nothing yet on the test split: `make tables` measures it."
    pool = block["pool"]
    about = f"Test split, {pool:,} pairs; 95 % intervals over patients."
    header = ["", *RECALLS]
    lines = [about, "", _row(header), "|---" * len(header) + "|"]
    for direction, title in DIRECTIONS.items():
        recalls = block[direction]["pair"]
        cells = [_percent(recalls[name]) for name in RECALLS]
        lines.append(_row([title, *cells]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    """A row of a table in Markdown."""
    filled = [f" {cell} " if cell else " " for cell in cells]
    return f"|{'|'.join(filled)}|"


def _percent(measure: dict[str, float]) -> str:
    percent = {name: 100 * share for name, share in measure.items()}
    return "{value:.1f} ({low:.1f} to {high:.1f})".format(**percent)


def _limits(settings: Config) -> str:
    text = (
        "It finds similar pairs for research. It makes no diagnosis, and nobody has tested it for "
        "care."
    )
    if settings.source in DRAWN_SOURCES:
        text += " It has seen drawings only, so on real radiographs its answers mean nothing."
    return text
