"""Several processes train the model that one trains, whatever saves memory or time in the step.

With gloo on the CPU. That GPUs exchange the same with NCCL is not shown here.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from launching import free_port, weights

from mcrlib import config
from mcrlib.training import loop

pytestmark = pytest.mark.whole  # each launch imports everything anew
SMALL = {"vision_width": 32, "text_width": 32, "save_minutes": 60.0, "epochs": 4}
IN_STEP = [
    {},
    {"recompute": "selective"},
    {"recompute": "full", "micro_batch": 4},
    {"micro_batch": 3},
    pytest.param(
        {"compile": True},
        marks=pytest.mark.skipif(shutil.which("g++") is None, reason="a compiler is needed"),
    ),
]


def start(settings, processes, **changes):
    """Train in so many processes, as docs/mimic.md says."""
    given = {"run": "smoke", "seed": settings.seed} | SMALL | changes
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--mixed_precision", "no"]
    launcher += [
        "--num_machines",
        "1",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        str(free_port()),
    ]
    launcher += ["--num_processes", str(processes), "-m", "mcrlib.training"]
    return subprocess.Popen(
        [sys.executable, *launcher, *(f"{name}={value}" for name, value in given.items())],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(training):
    printed, _ = training.communicate(timeout=300)
    assert training.returncode == 0, printed
    return printed


def assert_alike(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-3, rtol=2e-2)


@pytest.fixture(scope="module")
def of_one_process(dataset):
    """The weights that one process trains."""
    settings = config.load("smoke", seed=700, **SMALL)
    loop.train(settings, dataset)
    trained = weights(settings)
    shutil.rmtree(settings.folder)
    return trained


@pytest.fixture
def settings(dataset):
    """Those of that model; what was trained before is gone."""
    settings = config.load("smoke", seed=700, **SMALL)
    shutil.rmtree(settings.folder, ignore_errors=True)
    yield settings
    shutil.rmtree(settings.folder, ignore_errors=True)


@pytest.mark.parametrize("changes", IN_STEP, ids=str)
def test_two_processes_train_the_model_of_one(settings, of_one_process, changes):
    finish(start(settings, 2, **changes))
    assert_alike(weights(settings), of_one_process)


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (2, 4)])
def test_a_training_goes_on_in_another_number_of_processes(settings, of_one_process, first, then):
    training = start(settings, first)
    history = settings.folder / "history.csv"
    while not history.is_file():
        assert training.poll() is None, training.stdout.read()
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(training.pid)], capture_output=True, text=True)
    for process in children.stdout.split():
        os.kill(int(process), signal.SIGUSR1)
    printed, _ = training.communicate(timeout=120)
    assert "Asked to stop (" in printed, printed
    assert "resuming after" in finish(start(settings, then))
    assert_alike(weights(settings), of_one_process)
