"""Measured rows on disk, each with the code that it was measured with.

A run of all benchmarks saves after each of them, and goes on from there if it was interrupted. Rows
of different code are never put into one file.
"""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcrlib import config, results

CPU_FILE = "bench.json"
GPU_FILE = "bench-gpu.json"
# The benchmarks of each file in the order in which they run: first what readers ask for first.
ORDER = {
    CPU_FILE: [
        "1", "2", "epoch", "3", "7", "8", "6", "compile", "4", "5", "10", "11", "9",
        "findings", "sections", "retrieval", "text_metrics", "preparation",
    ],
    GPU_FILE: ["1", "2", "epoch", "compile", "7", "8", "6", "3", "4", "5", "12"],
}  # fmt: skip

# What a measurement itself changes, and what does not change a measurement.
NOT_CODE = (":!results", ":!figures", ":!*.md")


def code_version() -> str:
    """The commit, followed by "+" and a hash of the changes if tracked code differs from it.

    Outside git it is "unknown".
    """
    commit = _git("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return "unknown"
    changes = _git("diff", "HEAD", "--", ".", *NOT_CODE)
    if changes == "":
        return commit
    digest = hashlib.sha256(changes.encode()).hexdigest()
    return f"{commit}+{digest[:8]}"


class Saved:
    """The rows of `file`, which is complete once all benchmarks are in it.

    Until then they are in a partial file beside it. Rows that `code` measured in an earlier run are
    taken over. Exits with a sentence if the partial file has rows of other code.
    """

    def __init__(self, file: Path, code: str):
        self.file = file
        self.partial = file.with_suffix(".partial.json")
        self.code = code
        self.rows: list[dict] = []
        self.seconds: dict[str, float] = {}  # that each benchmark took
        self._take_over()

    def has(self, name: str) -> bool:
        """Whether the benchmark `name` was measured by this code before."""
        return name in self.seconds

    def add(self, name: str, rows: list[dict], seconds: float) -> None:
        """Save the rows of a benchmark that took so many seconds."""
        for measured in rows:
            self.rows.append({**measured, "benchmark": name, "code": self.code})
        self.seconds[name] = round(seconds, 1)
        self._write(self.partial)

    def finish(self, order: list[str]) -> None:
        """All benchmarks are there: put their rows in `order` and in place of the former ones."""
        self.rows.sort(key=lambda measured: order.index(measured["benchmark"]))
        self._write(self.partial)
        self.partial.replace(self.file)

    def _take_over(self) -> None:
        found = self.file
        if self.partial.is_file():
            found = self.partial
        if not found.is_file():
            return
        record = results.load(found)
        versions = code_versions(record["values"])
        is_ours = versions == [self.code] and self.code != "unknown"
        if is_ours:
            self.rows = record["values"]
            self.seconds = record["provenance"]["seconds"]
            names = ", ".join(self.seconds)
            notice = f"Measured already by this code, and skipped: {names}. To measure them anew,"
            print(f"{notice} remove {found}.", flush=True)
        elif found == self.partial:
            sys.exit(
                f"{found} holds rows of the code {', '.join(versions)}, and this is {self.code}: "
                "check that commit out to go on with them, or remove the file to measure all anew."
            )

    def _write(self, file: Path) -> None:
        results.save(file, self.rows, seconds=self.seconds)


def code_versions(rows: list[dict[str, Any]]) -> list[str]:
    """The code that measured these rows, each version once, in the order of the rows."""
    return list(dict.fromkeys(measured["code"] for measured in rows))


def _git(*words: str) -> str | None:
    """What a git command prints, None if it fails."""
    done = subprocess.run(["git", *words], cwd=config.ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    return done.stdout.strip()
