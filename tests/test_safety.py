"""The benchmark of a run's safety with few kills: real SIGKILLs, two real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("name", "measurements"), [("9", 2), ("10", 2), ("11", 1)])
def test_shared_killed_and_damaged_runs_end_as_an_unbroken_one(name, measurements, tmp_path):
    script = Path(__file__).parents[1] / "benchmarks/safety.py"
    done = subprocess.run(
        [sys.executable, script, name, "2"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == measurements
    assert all(row["met"] and row["id"] == name for row in rows), rows
