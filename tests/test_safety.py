"""The benchmark of a run's safety with few kills: real SIGKILLs, two real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_shared_killed_and_damaged_runs_end_as_an_unbroken_one(tmp_path):
    script = Path(__file__).parents[1] / "benchmarks/safety.py"
    done = subprocess.run(
        [sys.executable, script, "2"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["9", "9", "10", "10", "11"]
    assert all(row["met"] for row in rows), rows
