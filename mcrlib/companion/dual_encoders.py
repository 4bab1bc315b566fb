"""Other people's dual encoders: pictures and texts embedded in one space (ours).

A folder in the format of transformers (CLIP, SigLIP and SigLIP2) or of open_clip is opened with its
own library, which also prepares the pictures and texts: size, crop, mean, deviation, tokenizer and
longest text are the model's own. Nothing but tensors is unpickled, and no code from a folder is
run.
"""

import contextlib
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from torch import Tensor, nn
from transformers import AutoProcessor, CLIPModel, Siglip2Model, SiglipModel

from mcrlib import weight_files
from mcrlib.files import sha256

FAMILIES = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model}  # of transformers
OPEN_CLIP_CONFIG = "open_clip_config.json"  # is in a folder of open_clip's format only
# Of these weights open_clip reads the first one found.
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
SMALL_FILES = ("*.json", "*.txt", "*.model")  # all but the weights
# Each of these sets of files is a whole tokenizer.
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("tokenizer.model",),
)
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
BATCH = 64
LONGEST_REASON = 300  # letters of what a library says


class DualEncoder(ABC):
    """An encoder of pictures and one of texts, with rows in the same space."""

    kind: str  # format and family, such as "transformers clip"
    side: int  # of the square picture that the encoder sees, in pixels
    most_tokens: int  # of a text; longer ones are cut
    device: torch.device

    def embed_images(self, squares: np.ndarray, batch_size: int = BATCH) -> np.ndarray:
        """Unit rows, float32 `[N, E]`, of grey pictures, uint8 `[N, S, S]`, which are shown to the
        encoder as RGB pictures. Raises ValueError if a row is not finite."""
        blocks = []
        for start in range(0, len(squares), batch_size):
            chosen = squares[start : start + batch_size]
            pictures = [Image.fromarray(square).convert("RGB") for square in chosen]
            with torch.no_grad():
                features = self._image_features(pictures)
            blocks.append(_unit_rows(features))
        return np.concatenate(blocks)

    def embed_reports(self, texts: Sequence[str], batch_size: int = BATCH) -> np.ndarray:
        """Unit rows, float32 `[N, E]`, of texts; those of more than `most_tokens` are cut. Raises
        ValueError if a row is not finite."""
        blocks = []
        for start in range(0, len(texts), batch_size):
            chosen = list(texts[start : start + batch_size])
            with torch.no_grad():
                features = self._text_features(chosen)
            blocks.append(_unit_rows(features))
        return np.concatenate(blocks)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of the texts have more than `most_tokens` tokens."""
        return sum(self._length(text) > self.most_tokens for text in texts)

    @abstractmethod
    def _image_features(self, pictures: list[Image.Image]) -> Tensor:
        """Rows `[B, E]` of RGB pictures, of any length."""

    @abstractmethod
    def _text_features(self, texts: list[str]) -> Tensor:
        """Rows `[B, E]` of texts, of any length."""

    @abstractmethod
    def _length(self, text: str) -> int:
        """Tokens of the whole text, with those that the tokenizer adds."""


def _unit_rows(features: Tensor) -> np.ndarray:
    if not features.isfinite().all():
        raise ValueError(
            "The model gives embeddings that are not finite, so its weights are damaged or of "
            "another model: download its folder anew."
        )
    return nn.functional.normalize(features.float(), dim=1).cpu().numpy()


def open_encoder(folder: Path, device: str | torch.device | None = None) -> DualEncoder:
    """The model in `folder`, by default on the GPU if there is one.

    Raises ValueError or FileNotFoundError, in one sentence, for a folder of another format, a
    damaged or missing file and missing weights, and ModuleNotFoundError if the library of its
    format is not installed.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if _is_open_clip(folder):
        return OpenClipEncoder(folder, torch.device(device))
    return TransformersEncoder(folder, torch.device(device))


class TransformersEncoder(DualEncoder):
    """A CLIP, SigLIP or SigLIP2 model in transformers' format."""

    def __init__(self, folder: Path, device: torch.device):
        """Raises ValueError, FileNotFoundError or ModuleNotFoundError as `open_encoder` does."""
        family = _read_json(folder / "config.json").get("model_type")
        if family not in FAMILIES:
            raise ValueError(
                f"{folder / 'config.json'} describes a model of the type {family!r}, but only "
                f"{', '.join(FAMILIES)} and open_clip's models are read: give the folder of one."
            )
        self.kind = f"transformers {family}"
        self.device = device
        self.model = _load_transformers(folder, FAMILIES[family]).to(device)
        _check_vocabulary(folder)
        with _in_one_sentence(folder, "The processor"):
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            self.image_processor = processor.image_processor
            self.tokenizer = processor.tokenizer
        text = self.model.config.text_config
        _check_words(folder, len(self.tokenizer), text.vocab_size)
        self.side = _side(self.model.config.vision_config)
        self.most_tokens = min(text.max_position_embeddings, self.tokenizer.model_max_length)
        # SigLIP reads its texts' embedding off the last place, padding or not, as it was trained.
        self.padding = "longest" if family == "clip" else "max_length"

    def _image_features(self, pictures: list[Image.Image]) -> Tensor:
        inputs = self.image_processor(images=pictures, return_tensors="pt")
        return self.model.get_image_features(**inputs.to(self.device)).pooler_output

    def _text_features(self, texts: list[str]) -> Tensor:
        inputs = self.tokenizer(
            texts,
            padding=self.padding,
            truncation=True,
            max_length=self.most_tokens,
            return_tensors="pt",
        )
        return self.model.get_text_features(**inputs.to(self.device)).pooler_output

    def _length(self, text: str) -> int:
        return len(self.tokenizer(text, verbose=False)["input_ids"])


def _load_transformers(folder: Path, model_class: type) -> Any:
    """The model with all its weights, in float32 and evaluation mode."""
    _check_weights(folder)
    weights = weight_files.read(folder)
    with _in_one_sentence(folder, "The model"):
        config = model_class.config_class.from_pretrained(folder)
        model, found = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    misfits = {misfit[0] for misfit in found["mismatched_keys"]}  # the name, then both shapes
    if misfits:
        raise ValueError(
            f"{folder} has weights of other shapes than its config.json says: "
            f"{weight_files.listed(misfits)}. Download the folder anew."
        )
    missing = found["missing_keys"]
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the model's {len(model.state_dict())} weights: "
            f"{weight_files.listed(missing)}. Give the folder of a whole model."
        )
    left_over = found["unexpected_keys"]
    if left_over:
        print(f"{folder}: not used: {weight_files.listed(left_over)}", flush=True)
    return model.eval()


def _side(vision: Any) -> int:
    """Side of the square picture, in pixels; SigLIP2 has a number of patches in its place."""
    if hasattr(vision, "image_size"):
        return vision.image_size
    return round(vision.num_patches**0.5) * vision.patch_size


class OpenClipEncoder(DualEncoder):
    """A model in open_clip's format."""

    def __init__(self, folder: Path, device: torch.device):
        """Raises ValueError, FileNotFoundError or ModuleNotFoundError as `open_encoder` does."""
        open_clip = _import_open_clip()
        from open_clip.transform import PreprocessCfg, image_transform_v2

        text = _open_clip_text(folder)
        _check_weights(folder)
        name = f"local-dir:{folder}"
        with _in_one_sentence(folder, "The model"):
            # The settings of the texts' encoder with its configuration's folder for its hub name.
            model = open_clip.create_model(name, require_pretrained=True, text_cfg=text)
            self.preprocess = image_transform_v2(
                PreprocessCfg(**model.visual.preprocess_cfg), is_train=False
            )
        _check_finite(model, folder)
        self.kind = f"open_clip {type(model).__name__}"
        self.device = device
        self.model = model.eval().to(device)
        self.side = int(np.max(model.visual.image_size))
        # Otherwise the tokenizer is open_clip's own, which comes with the library.
        from_folder = {}
        if text.get("hf_tokenizer_name"):
            _check_vocabulary(folder)
            from_folder["trust_remote_code"] = False
        with _in_one_sentence(folder, "The tokenizer"):
            self.tokenizer = open_clip.get_tokenizer(name, **from_folder)
        if from_folder:
            words = len(self.tokenizer.tokenizer)
            _check_words(folder, words, getattr(model, "text", model).vocab_size)
        self.most_tokens = self.tokenizer.context_length

    def _image_features(self, pictures: list[Image.Image]) -> Tensor:
        pixels = torch.stack([self.preprocess(picture) for picture in pictures])
        return self.model.encode_image(pixels.to(self.device))

    def _text_features(self, texts: list[str]) -> Tensor:
        return self.model.encode_text(self.tokenizer(texts).to(self.device))

    def _length(self, text: str) -> int:
        if hasattr(self.tokenizer, "encode"):  # open_clip's own, without its two marks
            return len(self.tokenizer.encode(text)) + 2
        clean = self.tokenizer.clean_fn(text)
        return len(self.tokenizer.tokenizer(clean, verbose=False)["input_ids"])


def _import_open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise ModuleNotFoundError(
            "A model in open_clip's format needs the package open_clip_torch, which is not "
            "installed: run `pip install -e '.[peers]'`."
        ) from None
    return open_clip


def _open_clip_text(folder: Path) -> dict[str, Any]:
    """The settings of the texts' encoder, whose configuration is a local folder."""
    file = folder / OPEN_CLIP_CONFIG
    model = _read_json(file).get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg"), dict):
        raise ValueError(f"{file} lacks model_cfg or its text_cfg: download the folder anew.")
    text = dict(model["text_cfg"])
    if text.get("hf_model_name"):
        text["hf_model_name"] = str(_text_configuration(folder, text["hf_model_name"]))
        text["hf_model_pretrained"] = False
    return text


def _text_configuration(folder: Path, hub_name: str) -> Path:
    """The folder with the configuration of an encoder that open_clip takes from transformers.

    It is a folder of that name within `folder`, or the folder that `hub_name` itself names, or else
    in the hub's cache, downloaded to if needed.
    """
    within = folder / Path(hub_name).name
    if (within / "config.json").is_file():
        place = within
    elif (Path(hub_name) / "config.json").is_file():
        place = Path(hub_name)
    else:
        place = _download(
            hub_name,
            ("config.json",),
            f"{folder} lacks the configuration of its texts' encoder, {within / 'config.json'}",
            f"on a machine with internet access run `hf download {hub_name} config.json "
            f"--local-dir {within}`, and bring that folder here.",
        )
    if "auto_map" in _read_json(place / "config.json"):
        raise ValueError(
            f"{place / 'config.json'} wants code from the hub to be run, which is not done: give "
            "another model."
        )
    return place


def _check_weights(folder: Path) -> None:
    """Raise FileNotFoundError if the folder has no file of weights that is read."""
    if weight_file(folder) is not None:
        return
    parts = sorted(folder.glob("*.index.json"))
    if parts:
        raise FileNotFoundError(
            f"{folder} holds weights in several parts ({parts[0].name}), and only whole ones are "
            "read: load the model with its library and save it with max_shard_size='100GB'."
        )
    names = ", ".join(_weight_names(folder))
    raise FileNotFoundError(f"{folder} holds none of {names}: download the folder anew.")


def _check_finite(model: nn.Module, folder: Path) -> None:
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(
                f"The weights in {folder} are damaged ({name!r} is not finite): download them "
                "again."
            )


def _check_vocabulary(folder: Path) -> None:
    """Raise FileNotFoundError if the folder has no vocabulary: libraries would make an empty one,
    by which every word is unknown."""
    there = {file.name for file in folder.iterdir()}
    if not any(there.issuperset(names) for names in VOCABULARIES):
        sets = [" with ".join(names) for names in VOCABULARIES]
        raise FileNotFoundError(
            f"{folder} lacks its tokenizer's vocabulary, one of {', '.join(sets)}: download the "
            "folder anew."
        )


def _check_words(folder: Path, words: int, rows: int) -> None:
    """Raise ValueError if the tokenizer has more words than the model has embeddings of them."""
    if words > rows:
        raise ValueError(
            f"The tokenizer in {folder}, with {words} words, is not the model's, which has {rows}: "
            "download the folder anew."
        )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: download the folder anew.")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is empty or damaged: download the folder anew.")
    return content


@contextlib.contextmanager
def _in_one_sentence(folder: Path, part: str) -> Iterator[None]:
    """Raise whatever a library raises, which may be of any kind, as a sentence with the folder."""
    try:
        yield
    except ImportError as error:
        package = "sentencepiece" if "sentencepiece" in str(error).lower() else "it"
        raise ModuleNotFoundError(
            f"{part} in {folder} needs a package that is not installed ({_reason(error)}): "
            f"install {package} with pip."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{part} in {folder} cannot be read ({_reason(error)}): download the folder anew, or "
            "give the folder of another model."
        ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:LONGEST_REASON]


# Folders


def find_folder(weights: str) -> Path:
    """The folder that `weights` is, or that of a name on the hub, downloaded to if needed.

    Of a model's weight files only the one that is read is downloaded. Raises FileNotFoundError or
    ValueError, in one sentence with the command to download it, if there is neither.
    """
    folder = Path(weights).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ValueError(f"WEIGHTS={weights} is a file: give the folder that it is in.")
    if not HUB_NAME.fullmatch(weights):
        raise FileNotFoundError(
            f"WEIGHTS={weights} is neither a folder nor a name on the hub, such as "
            "flaviagiammarino/pubmed-clip-vit-base-patch32: give one of them."
        )
    what = f"WEIGHTS={weights} is no folder"
    advice = (
        f"on a machine with internet access run `hf download {weights} --local-dir FOLDER`, after "
        "accepting the model's terms and `hf auth login` if it is gated, then set WEIGHTS=FOLDER."
    )
    folder = _download(weights, SMALL_FILES, what, advice)
    for name in _weight_names(folder):
        if weight_file(folder) is None:
            _download(weights, (name,), what, advice)
    return folder


def _download(hub_name: str, names: Sequence[str], what: str, advice: str) -> Path:
    try:
        return Path(snapshot_download(hub_name, allow_patterns=list(names)))
    except Exception as error:  # the library raises many kinds
        kind = type(error).__name__
        raise FileNotFoundError(
            f"{what}, and the hub cannot be reached or does not give {hub_name} ({kind}): {advice}"
        ) from error


def _is_open_clip(folder: Path) -> bool:
    """Raises FileNotFoundError for a folder of neither format."""
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return True
    if (folder / "config.json").is_file():
        return False
    raise FileNotFoundError(
        f"{folder} holds neither config.json (transformers) nor {OPEN_CLIP_CONFIG} (open_clip): "
        "give the folder of a CLIP, SigLIP or SigLIP2 model, or of a model of open_clip."
    )


def _weight_names(folder: Path) -> Sequence[str]:
    return OPEN_CLIP_WEIGHTS if _is_open_clip(folder) else weight_files.NAMES


def weight_file(folder: Path) -> Path | None:
    """The file of weights that is read, None if there is none. Raises FileNotFoundError for a
    folder of neither format."""
    for name in _weight_names(folder):
        if (folder / name).is_file():
            return folder / name
    return None


def digest(folder: Path) -> str:
    """Hash of the weights, configuration and tokenizer that make the embeddings. Raises
    FileNotFoundError as `weight_file` does."""
    files = {weight_file(folder)} - {None}
    for pattern in SMALL_FILES:
        files.update(folder.glob(pattern))
    hashes = {file.name: sha256(file) for file in files}
    text = json.dumps(hashes, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
