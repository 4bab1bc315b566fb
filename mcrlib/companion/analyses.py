"""What each notebook computes: the numbers of a run, saved with their provenance.

Each function computes only if the saved numbers are missing or were made from other inputs;
otherwise it reads them. A notebook therefore redraws in seconds, without data or model.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mcrlib import config, results
from mcrlib.companion import peers, probe_files
from mcrlib.config import Config
from mcrlib.data.dataset import Dataset
from mcrlib.evaluation.chance import telling_k
from mcrlib.evaluation.seeds import by_variant, over_seeds, variant_and_seed
from mcrlib.files import sha256
from mcrlib.training import budget
from mcrlib.training.history import recall_name, recorded_k

# Numbers that the claims are read from
COMPARISON = "comparison.json"
GAP_COMPARISON = "gap_comparison.json"

# Libraries that take seconds to import are imported by the functions that compute, so that
# redrawing does not wait for them.


@dataclass(frozen=True)
class Numbers:
    """Numbers of one analysis, and what they were made from."""

    values: Any
    provenance: dict[str, Any]

    @classmethod
    def load(cls, file: Path) -> "Numbers":
        """Read a file of numbers. Raises FileNotFoundError if it was never made."""
        record = results.load(file)
        return cls(record["values"], record["provenance"])


def models_of(run: str, split: str = "test") -> str:
    """The models that a run's tables and figures show, by folder name."""
    return ", ".join(file.parent.name for file in results.embedding_files(run, split).values())


# 00_data


def describe_data(settings: Config, dataset: Dataset) -> Numbers:
    """Counts of the prepared pairs, duplicates, and what an oracle that knows the labels finds."""
    from mcrlib.data import summary
    from mcrlib.evaluation import retrieval

    file = config.ROOT / "results" / settings.run / "data.json"
    inputs = {"config": settings.digest(), "dataset": dataset.info["dataset_sha256"]}
    if not results.is_current(file, inputs):
        labels = dataset.frame["labels"].iloc[dataset.indices("test")]
        ceiling = {}
        if len(labels) and labels.notna().all():
            ceiling = retrieval.label_ceiling(labels)
        values = {
            "dataset": dataset.info,
            "splits": summary.splits(dataset).to_dict(),
            "label_ceiling": {f"R@{k}": share for k, share in ceiling.items()},
        }
        results.save(file, values, inputs=inputs, run=settings.run)
    return Numbers.load(file)


# 01_train


def describe_training(settings: Config, dataset: Dataset, history: pd.DataFrame) -> Numbers:
    """The best epoch of a finished training, its validation recall, and what it took: seconds, and
    steps and operations if they were counted.

    The recall's name, `validate_recall@K`, says its K. Peak memory is in the provenance.
    """
    file = settings.folder / "training.json"
    inputs = {"config": settings.digest(), "dataset": dataset.info["dataset_sha256"]}
    if not results.is_current(file, inputs):
        recall = recall_name(recorded_k(history.columns))
        best = history.loc[history[recall].idxmax()]
        values = {
            "best_epoch": int(best["epoch"]),
            recall: best[recall],
            "seconds": history["seconds"].sum(),
        }
        length = budget.read(settings.folder)
        if length is not None:
            values["epochs"] = length.epochs
            values["steps"] = length.steps
            values["flops_a_step"] = length.flops_a_step
            values["flops"] = length.flops
        model = {"run": settings.run, "variant": settings.variant, "seed": settings.seed}
        results.save(file, values, inputs=inputs, **model)
    return Numbers.load(file)


# 02_embed


def embed(model: Any, settings: Config, dataset: Dataset, split: str) -> dict[str, int]:
    """Save the model's embeddings of a split, and of the test split what it says to probes
    (`probing`); returns `pairs`, `dimensions` and `reports cut`.

    Reports are cut if they have more than the model's `max_tokens`. Raises ValueError if the split
    is empty.
    """
    from mcrlib.companion import probing
    from mcrlib.data import batches

    rows = dataset.indices(split)
    if not len(rows):
        raise ValueError(
            f"The {split} split of {dataset.folder} is empty: there is nothing to embed."
        )
    frame = dataset.frame.iloc[rows]
    image = model.embed_images(dataset.images[rows])
    report = model.embed_reports(frame["report"].tolist())
    file = settings.folder / f"embeddings-{split}.npz"
    made_from = {"dataset": dataset.info["dataset_sha256"][:16]}
    weights = settings.folder / results.WEIGHTS
    if weights.is_file():
        made_from["model"] = sha256(weights)
    if split == "test":
        # The model's own settings, since those of the run may lack changes that the data have.
        scores = probing.ask(model, model.config, dataset, image)
        probe_files.save(settings.folder, scores, made_from)
    results.save_embeddings(file, image, report, frame["pair_id"], made_from=made_from)

    limit = model.config.max_tokens
    tokens = batches.cached_tokens(dataset, split, model.tokenizer, limit)
    cut = sum(len(ids) == limit for ids in tokens)
    return {"pairs": len(rows), "dimensions": image.shape[1], "reports cut": cut}


# 03_retrieval


@dataclass(frozen=True)
class Retrieval:
    """Recall of every model, and verdicts between variants."""

    recall: Numbers  # values: model -> `retrieval.evaluate`'s result
    verdicts: Numbers  # values: `retrieval.verdicts`' records

    @property
    def by_variant(self) -> dict[str, dict]:
        """Recall by variant; of several seeds, mean and deviation."""
        return over_seeds(self.recall.values)

    @property
    def pool(self) -> int:
        """Number of candidates of each query."""
        first_model = next(iter(self.recall.values.values()))
        return first_model["pool"]

    @property
    def chance(self) -> dict[str, float]:
        """Recall@K of random retrieval, policy `pair`, by the name of its column."""
        first_model = next(iter(self.recall.values.values()))
        return first_model["chance"]


def retrieve(run: str, draws: int = 1000) -> Retrieval:
    """Recall@K of every embedded model on the test split, and paired verdicts between variants.

    `draws` resamples of the patients give each interval. With labels, precision@K and mAP count a
    candidate as relevant if it shares a finding with the query; without them the findings are read
    from the reports.
    """
    folder = config.ROOT / "results" / run
    recall_file = folder / "retrieval.json"
    verdicts_file = folder / "verdicts.json"
    k = retrieval_k(run)
    inputs = results.input_hashes(run) | {"draws": str(draws)}
    has_recall = results.is_current(recall_file, inputs)
    has_verdicts = results.is_current(verdicts_file, inputs | {"k": str(k)})
    if not has_recall or not has_verdicts:
        _compute_retrieval(run, draws, k, inputs, recall_file, verdicts_file)
    return Retrieval(Numbers.load(recall_file), Numbers.load(verdicts_file))


def retrieval_k(run: str) -> int:
    """The K at which a run's recalls are read and compared: `telling_k` of its pool."""
    first_file = next(iter(results.embedding_files(run).values()))
    image, _ = results.load_embeddings(first_file)
    return telling_k(len(image))


def _compute_retrieval(
    run: str,
    draws: int,
    k: int,
    inputs: dict[str, str],
    recall_file: Path,
    verdicts_file: Path,
) -> None:
    from mcrlib.evaluation import retrieval

    started = time.perf_counter()
    dataset = results.dataset_of_run(run)
    test = dataset.frame.iloc[dataset.indices("test")]
    texts = test["report"].tolist()
    patients = test["patient_id"].tolist()
    labels, label_source = _finding_labels(test)
    own = np.arange(len(test))

    recall = {}
    ranks = {}
    for name, file in results.embedding_files(run).items():
        image, report = results.load_embeddings(file, test["pair_id"])
        recall[name] = retrieval.evaluate(image, report, texts, patients, labels, draws=draws)
        ranks[file.parent.name] = [
            retrieval.ranks(image, report, own, own),
            retrieval.ranks(report, image, own, own),
        ]
    about = {"run": run, "dataset": dataset.info["dataset_sha256"], "labels": label_source}
    seconds = round(time.perf_counter() - started)
    verdicts = _verdicts(run, ranks, patients, k)
    results.save(verdicts_file, verdicts, inputs=inputs | {"k": str(k)}, **about, k=k)
    results.save(recall_file, recall, inputs=inputs, **about, seconds=seconds)


def _verdicts(run: str, ranks: dict[str, list], patients: list, k: int) -> list[dict]:
    """`retrieval.verdicts`' records, and one without numbers for each of other people's models that
    the run's pairs tell nothing about."""
    from mcrlib.evaluation import retrieval

    untold = peers.untold(run)
    judged = {model: of_model for model, of_model in ranks.items() if model not in untold}
    if not judged:
        return []
    records = retrieval.verdicts(judged, patients, k)
    baseline = next(iter(by_variant(judged)))
    for peer in by_variant(dict.fromkeys(untold)):
        record = {"variants": [baseline, peer], "primary": False, "seeds": 0}
        records.append(record | {"verdict": "cannot be told here"})
    return records


def _finding_labels(test: pd.DataFrame) -> tuple[list[set[str]], str]:
    """Findings of each pair, and who says so: the data set's labels, or our reading of the text."""
    from mcrlib.data import summary
    from mcrlib.evaluation import findings

    if test["labels"].notna().all():
        return [summary.finding_names(labels) for labels in test["labels"]], "the data set's"
    read = [findings.present(text) for text in test["report"]]
    return read, "read by mcrlib.evaluation.findings"


def compare_endpoints(run: str, draws: int = 10_000) -> Numbers:
    """The main comparison: `endpoints.verdicts` of every embedded model on the test split.

    `draws` resamples of the patients, and of more than three seeds, give each interval.
    """
    file = config.ROOT / "results" / run / COMPARISON
    inputs = comparison_inputs(run, draws)
    if not results.is_current(file, inputs):
        from mcrlib.evaluation import endpoints

        dataset = results.dataset_of_run(run)
        test = dataset.frame.iloc[dataset.indices("test")]
        attributes, source = pair_attributes(dataset, test)
        values = {}
        for embeddings in results.embedding_files(run).values():
            image, report = results.load_embeddings(embeddings, test["pair_id"])
            values[embeddings.parent.name] = endpoints.by_pair(image, report, attributes)
        verdicts = endpoints.verdicts(values, test["patient_id"].tolist(), draws)
        about = {"run": run, "pool": len(test), "attributes": source}
        results.save(file, verdicts, inputs=inputs, **about)
    return Numbers.load(file)


def comparison_inputs(
    run: str, draws: int = 10_000, model_hash: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """What the main comparison is made from. Attributes of drawn pairs do not depend on the rules
    that read findings. `model_hash` and errors are those of `results.input_hashes`."""
    inputs = results.input_hashes(run, model_hash=model_hash) | {"draws": str(draws)}
    if is_drawn(run):
        return inputs
    from mcrlib.evaluation import findings

    return inputs | {"findings": findings.rules_digest()}


def is_drawn(run: str) -> bool:
    """Whether a run's pairs are drawn: by its data, or by its settings if there is none yet."""
    source = results.dataset_info(run).get("source", config.load(run).source)
    return source in config.DRAWN_SOURCES


# 04_text_metrics


@dataclass(frozen=True)
class TextMetrics:
    """Figure 3's curves, and the clinical agreement of the first hit."""

    curves: Numbers  # values: `text_metrics.curves`' records
    agreement: Numbers  # values: model -> direction -> `findings.agreement`'s result

    @property
    def mean_curves(self) -> list[dict]:
        """The records by variant, means over seeds."""
        records = pd.DataFrame(self.curves.values)
        records["variant"] = records["variant"].str.replace("-seed.*", "", regex=True)
        point = ["variant", "direction", "metric", "k"]
        means = records.groupby(point, sort=False, as_index=False).mean()
        return means.to_dict("records")


def score_texts(run: str, depth: int = 10, nearest: int = 50, processes: int = 0) -> TextMetrics:
    """BLEU, METEOR, ROUGE-L and CIDEr of the first `depth` hits, and findings of the first.

    Random retrieval (`floor`) is added, and a `ceiling`: the own report first, then the best of the
    `nearest` other reports and of all hits.
    METEOR runs in `processes` Java processes; 0 stands for one per core, if the memory suffices.
    """
    from mcrlib.evaluation import findings

    folder = config.ROOT / "results" / run
    curves_file = folder / "text_metrics.json"
    agreement_file = folder / "agreement.json"
    inputs = results.input_hashes(run) | {"depth": str(depth), "nearest": str(nearest)}
    agreement_inputs = inputs | {"findings": findings.rules_digest()}
    curves_inputs = inputs | {"ceiling": "own report first"}  # it once left that out
    has_curves = results.is_current(curves_file, curves_inputs)
    has_agreement = results.is_current(agreement_file, agreement_inputs)
    if not has_curves or not has_agreement:
        from mcrlib.evaluation import text_metrics

        started = time.perf_counter()
        dataset = results.dataset_of_run(run)
        test = dataset.frame.iloc[dataset.indices("test")]
        texts = test["report"].tolist()
        hits = _hits_with_floor(run, test["pair_id"], depth)
        about = {"run": run, "pool": len(test)}
        if not has_curves:
            records = text_metrics.curves(texts, hits, nearest=nearest, processes=processes)
            seconds = round(time.perf_counter() - started)
            results.save(curves_file, records, inputs=curves_inputs, **about, seconds=seconds)
        if not has_agreement:
            agreement = _agreement(texts, hits)
            results.save(agreement_file, agreement, inputs=agreement_inputs, **about)
    return TextMetrics(Numbers.load(curves_file), Numbers.load(agreement_file))


def _hits_with_floor(run: str, pair_id: pd.Series, depth: int) -> dict[str, dict]:
    """Rows of the first hits, model -> direction -> [N, depth]; `floor` has random ones."""
    from mcrlib.evaluation import retrieval, text_metrics

    random_hits = text_metrics.floor(len(pair_id), depth)
    hits = {"floor": dict.fromkeys(retrieval.DIRECTIONS, random_hits)}
    for name, file in results.embedding_files(run).items():
        best = retrieval.hits(*results.load_embeddings(file, pair_id), depth)
        hits[name] = {direction: rows for direction, (rows, _) in best.items()}
    return hits


def _agreement(texts: list[str], hits: dict[str, dict]) -> dict[str, dict]:
    """`findings.agreement` of the first hits, model -> direction -> result."""
    from mcrlib.evaluation import findings

    agreement = {}
    for name, directions in hits.items():
        agreement[name] = {}
        for direction, rows in directions.items():
            first_hits = [texts[row] for row in rows[:, 0]]
            agreement[name][direction] = findings.agreement(first_hits, texts)
    return agreement


# 05_modality_gap


def measure_gaps(run: str, seed: int = 0, largest: int = 2000) -> Numbers:
    """t-SNE and gap of every model on the first `largest` validation pairs; AbM first, then MbA."""
    file = config.ROOT / "results" / run / "modality_gap.json"
    inputs = gap_inputs(run, seed, largest)
    if not results.is_current(file, inputs):
        from mcrlib.evaluation.modality_gap import measure_gap

        started = time.perf_counter()
        embeddings = results.embedding_files(run, "validate")
        as_in_the_paper = sorted(embeddings, key=lambda name: (name != "abm", name != "mcr"))
        gaps = {}
        for name in as_in_the_paper:
            image, report = results.load_embeddings(embeddings[name])
            gaps[name] = measure_gap(image[:largest], report[:largest], seed)
        seconds = round(time.perf_counter() - started)
        results.save(file, gaps, inputs=inputs, run=run, seconds=seconds)
    return Numbers.load(file)


def gap_inputs(
    run: str, seed: int = 0, largest: int = 2000, model_hash: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """What the modality gaps are made from; `model_hash` and errors are those of
    `results.input_hashes`."""
    inputs = results.input_hashes(run, "validate", model_hash)
    return inputs | {"seed": str(seed), "largest": str(largest)}


def compare_gaps(run: str, draws: int = 1000) -> Numbers:
    """Whether the gap of MbA differs from that of AbM, `mcr` minus `abm`, on all validation pairs.

    The values are those of `endpoints.compare_gaps`; without models to compare, their `seeds` is 0.
    """
    file = config.ROOT / "results" / run / GAP_COMPARISON
    inputs = gap_comparison_inputs(run, draws)
    if not results.is_current(file, inputs):
        from mcrlib.evaluation import endpoints

        dataset = results.dataset_of_run(run)
        validate = dataset.frame.iloc[dataset.indices("validate")]
        models = {"mcr": {}, "abm": {}}
        for embeddings in results.embedding_files(run, "validate").values():
            variant, seed = variant_and_seed(embeddings.parent.name)
            if variant in models:
                pairs = results.load_embeddings(embeddings, validate["pair_id"])
                models[variant][seed] = pairs
        patients = validate["patient_id"].tolist()
        compared = endpoints.compare_gaps(models["mcr"], models["abm"], patients, draws)
        results.save(file, compared, inputs=inputs, run=run, pool=len(validate))
    return Numbers.load(file)


def gap_comparison_inputs(
    run: str, draws: int = 1000, model_hash: Callable[[Path], str] = sha256
) -> dict[str, str]:
    """What the comparison of gaps is made from; see `gap_inputs`."""
    return results.input_hashes(run, "validate", model_hash) | {"draws": str(draws)}


def first_seeds(gaps: dict[str, dict]) -> dict[str, dict]:
    """One model a variant, its first seed: what Figure 4 draws."""
    return {variant: seeds[0] for variant, seeds in by_variant(gaps).items()}


# 11_relevance


@dataclass(frozen=True)
class Relevance:
    """Measures of graded relevance of every model."""

    measured: Numbers  # values: model -> direction -> measure -> block, see `evaluation.relevance`

    @property
    def by_variant(self) -> dict[str, dict]:
        """Measures by variant, mean and deviation of several seeds, then `chance` and `oracle`."""
        return over_seeds(self.measured.values)

    @property
    def pool(self) -> int:
        """Number of candidates of each query."""
        return self.measured.provenance["pool"]


def measure_relevance(run: str, draws: int = 1000) -> Relevance:
    """RSUM, graded nDCG, errors of the first hit and risk of every embedded model on the test
    split, with chance and the label oracle in the place of two further models.

    `draws` resamples of the patients give each interval. The attributes of drawn pairs come from
    their labels, those of all others from their reports.
    """
    from mcrlib.evaluation import findings

    file = config.ROOT / "results" / run / "relevance.json"
    inputs = results.input_hashes(run)
    inputs |= {"draws": str(draws), "findings": findings.rules_digest()}
    if not results.is_current(file, inputs):
        _compute_relevance(run, draws, inputs, file)
    return Relevance(Numbers.load(file))


def _compute_relevance(run: str, draws: int, inputs: dict[str, str], file: Path) -> None:
    from mcrlib.evaluation import relevance

    started = time.perf_counter()
    dataset = results.dataset_of_run(run)
    test = dataset.frame.iloc[dataset.indices("test")]
    patients = test["patient_id"].tolist()
    attributes, source = pair_attributes(dataset, test)
    measured = {}
    for name, embeddings in results.embedding_files(run).items():
        image, report = results.load_embeddings(embeddings, test["pair_id"])
        measured[name] = relevance.evaluate(image, report, attributes, patients, draws)
    measured |= relevance.bounds(attributes, patients, draws)
    without_finding = sum(not of_pair for of_pair in attributes)
    about = {"run": run, "pool": len(test), "without_finding": without_finding}
    about |= {"dataset": dataset.info["dataset_sha256"], "attributes": source}
    seconds = round(time.perf_counter() - started)
    results.save(file, measured, inputs=inputs, **about, seconds=seconds)


def measure_probes(run: str, draws: int = 1000) -> Numbers:
    """What each model that was asked says to the probes of the test split: model -> direction ->
    measure -> block, see `evaluation.probes`. Empty if no model was asked.

    `draws` resamples of the patients give each interval. Which findings a pair has is known as in
    `measure_relevance`.
    """
    from mcrlib.evaluation import findings

    file = config.ROOT / "results" / run / "probes.json"
    asked = probe_files.files_of(run)
    inputs = results.input_hashes(run)
    inputs |= {f"{name} probes": sha256(path)[:16] for name, path in asked.items()}
    inputs |= {"draws": str(draws), "findings": findings.rules_digest()}
    if not results.is_current(file, inputs):
        not_asked = [name for name in results.embedding_files(run) if name not in asked]
        about = {"run": run, "not_asked": not_asked}
        measured = {}
        if asked:
            measured, of_pairs = _compute_probes(run, draws, asked)
            about |= of_pairs
        results.save(file, measured, inputs=inputs, **about)
    return Numbers.load(file)


def _compute_probes(
    run: str, draws: int, asked: dict[str, Path]
) -> tuple[dict[str, dict], dict[str, Any]]:
    """The measures by model, and what is to be said of the pairs."""
    from mcrlib.evaluation import probes

    dataset = results.dataset_of_run(run)
    test = dataset.frame.iloc[dataset.indices("test")]
    patients = test["patient_id"].tolist()
    found, source = _found(dataset, test)
    has_finding = {}
    for finding in probes.PROMPTED:
        has_finding[finding] = np.array([finding in of_pair for of_pair in found])
    measured = {}
    for name, file in asked.items():
        scores = probe_files.load(file, test["pair_id"].tolist())
        measured[name] = probes.evaluate(scores, has_finding, patients, draws)
    return measured, {"pool": len(test), "findings": source}


def _found(dataset: Dataset, test: pd.DataFrame) -> tuple[list[set[str]], str]:
    """Findings of each pair, and where they are from; only drawn pairs have them as labels."""
    from mcrlib.data import summary
    from mcrlib.evaluation import findings

    if dataset.info["source"] in config.DRAWN_SOURCES:
        return [summary.finding_names(labels) for labels in test["labels"]], "the data set's"
    read = [findings.present(text) for text in test["report"]]
    return read, "read by mcrlib.evaluation.findings"


def pair_attributes(dataset: Dataset, test: pd.DataFrame) -> tuple[list, str]:
    """Attributes of each pair, and where they are from; only drawn pairs have them as labels."""
    from mcrlib.evaluation import attributes

    if dataset.info["source"] in config.DRAWN_SOURCES:
        return [attributes.of_labels(labels) for labels in test["labels"]], "the data set's"
    read = [attributes.of_text(text) for text in test["report"]]
    return read, "read by mcrlib.evaluation.findings"


# 09_explore


def add_linear_baseline(run: str, width: int = 128, largest: int = 20_000) -> Path:
    """Fit the linear baseline on a run and save its embeddings beside the models', and what it says
    to probes; its folder.

    It then appears in every table and figure as `tfidf`.
    """
    from mcrlib.companion import probing
    from mcrlib.evaluation import baseline

    dataset = results.dataset_of_run(run)
    fitted = baseline.fit(dataset, width, largest)
    folder = config.ROOT / "results" / run / results.BASELINE_FOLDER
    made_from = {"dataset": dataset.info["dataset_sha256"][:16]}
    for split in ("validate", "test"):
        rows = dataset.indices(split)
        frame = dataset.frame.iloc[rows]
        image = fitted.embed_images(dataset.images[rows])
        report = fitted.embed_reports(frame["report"])
        if split == "test":
            scores = probing.ask(fitted, config.load(run), dataset, image)
            probe_files.save(folder, scores, made_from)
        file = folder / f"embeddings-{split}.npz"
        results.save_embeddings(file, image, report, frame["pair_id"], made_from=made_from)
    return folder
