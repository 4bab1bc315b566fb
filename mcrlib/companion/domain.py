"""Mapping before or after aggregation on pairs that are no radiographs (ours).

The models are those of the run `digits`, whatever run is asked about, so that every run's verdicts,
and the reference, can say what they show.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from mcrlib import config, results
from mcrlib.companion import analyses, lengths
from mcrlib.companion.analyses import Numbers
from mcrlib.companion.experiments import OTHER_DOMAIN, chosen
from mcrlib.files import sha256

FILE = "domain.json"


def measure(run: str) -> Numbers:
    """The comparisons of `mcr` with `abm` on digits, saved among the numbers of `run`.

    The values are `comparisons`, those records of `analyses.compare_endpoints`, and `lengths`,
    model -> the fields of its `lengths.Length`. Both are empty if there are no models of digits.
    """
    file = config.ROOT / "results" / run / FILE
    if run == config.REFERENCE or not _models():
        return Numbers.load(file) if file.is_file() else Numbers(_nothing(), {})
    inputs = domain_inputs(run)
    if not results.is_current(file, inputs):
        compared = analyses.compare_endpoints(OTHER_DOMAIN)
        values = _nothing()
        (item,) = chosen("domain")
        for record in compared.values:
            if record["variants"] == list(item.variants):
                values["comparisons"].append(record)
        for folder in _models():
            length = lengths.of_model(folder)
            if length is not None:
                values["lengths"][folder.name] = asdict(length)
        about = {"run": OTHER_DOMAIN, "pool": compared.provenance["pool"]}
        results.save(file, values, inputs=inputs, **about)
    return Numbers.load(file)


def domain_inputs(run: str, model_hash: Callable[[Path], str] = sha256) -> dict[str, str]:
    """What the numbers are made from, which does not depend on `run`; `model_hash` and errors are
    those of `results.input_hashes`."""
    inputs = analyses.comparison_inputs(OTHER_DOMAIN, model_hash=model_hash)
    for folder in _models():
        record = folder / "training.json"
        if record.is_file():
            inputs[f"{folder.name}/training"] = sha256(record)[:16]
    return inputs


def _nothing() -> dict:
    return {"comparisons": [], "lengths": {}}


def _models() -> list[Path]:
    """The folders of the embedded models of digits."""
    folder = config.ROOT / "results" / OTHER_DOMAIN
    return [file.parent for file in sorted(folder.glob("*-seed*/embeddings-test.npz"))]
