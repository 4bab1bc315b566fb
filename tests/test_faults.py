"""What ends a long training early: nothing is lost, and a sentence says how to go on."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launching import free_port, weights

from mcrlib import config
from mcrlib.training import faults, loop

DOCS = Path(__file__).resolve().parents[1] / "docs" / "mimic.md"
SMALL = {"vision_width": 32, "text_width": 32, "save_minutes": 60.0}

# What Slurm's commands do on one machine: two tasks, each with its number.
SRUN = """#!/bin/bash
trap 'kill -USR1 $first $second' USR1
export SLURM_NTASKS=2
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
code=0
for task in $first $second; do
  wait $task; now=$?
  while [ $now -gt 128 ] && kill -0 $task 2>/dev/null; do wait $task; now=$?; done
  [ $now -gt $code ] && code=$now
done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; echo another-node; else echo "$@" >> "$REQUEUED"; fi
"""


def small(seed, **changes):
    return config.load("smoke", seed=seed, **(SMALL | changes))


def words(settings, **changes):
    given = {"run": "smoke", "seed": settings.seed, "epochs": settings.epochs} | SMALL | changes
    return [f"{name}={value}" for name, value in given.items()]


def wait_until(is_so, process=None):
    for _ in range(1200):
        if is_so():
            return
        assert process is None or process.poll() is None, "it ended too early"
        time.sleep(0.05)
    raise AssertionError("it took more than a minute")


@pytest.mark.parametrize("number", faults.SIGNALS)
def test_after_a_signal_in_mid_epoch_the_weights_are_those_of_an_unbroken_training(
    dataset, monkeypatch, number
):
    settings = small(600, epochs=2)
    loop.train(settings, dataset)
    unbroken = weights(settings)
    shutil.rmtree(settings.folder)

    class Struck(loop.Trainer):
        def take_step(self, parts):
            if self.position.step == 1:
                os.kill(os.getpid(), number)  # in the middle of a step
            return super().take_step(parts)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Trainer", Struck)
        message = rf"Asked to stop \({number.name}\): saved after step 2 of epoch 1"
        with pytest.raises(faults.Stopped, match=message):
            loop.train(settings, dataset)
    assert signal.getsignal(number) == before

    loop.train(settings, dataset)
    for name, value in weights(settings).items():
        assert torch.equal(value, unbroken[name])
    shutil.rmtree(settings.folder)


def test_the_exit_code_after_a_signal(dataset, capfd):
    settings = small(620, epochs=400)
    command = [sys.executable, "-m", "mcrlib.training", *words(settings, validate_every=400)]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert training.stdout.readline().startswith("epoch  1/400")
    training.send_signal(signal.SIGTERM)
    _, errors = training.communicate(timeout=60)
    assert training.returncode == faults.RETRY == 75
    assert errors.splitlines()[-1].startswith("Asked to stop (SIGTERM): saved after step")
    assert (settings.folder / "checkpoint" / "saves.json").is_file()


# A training that is struck in its second epoch, in a process of its own: PyTorch keeps the ids of
# the loader's processes as long as the program runs.
STRUCK = """
import multiprocessing, os, signal, sys, time
import torch
from mcrlib.training import loop
from mcrlib.training.__main__ import main

take_step = loop.Trainer.take_step
in_parts = loop._in_parts

def kill_loader():
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGKILL)

def allocate():
    torch.empty(2**45, dtype=torch.uint8)  # 32 TB: the allocator's own error

def struck(self, parts):
    if self.position.epochs_done == 1:
        {blow}()
    return take_step(self, parts)

def slow(batch, size):  # still at work when it is killed
    time.sleep(0.3)
    return in_parts(batch, size)

loop.Trainer.take_step = struck
loop._in_parts = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("blow", "message"),
    [
        ("kill_loader", "A process that prepares batches was killed.* such as workers: 0"),
        ("allocate", "The memory of this machine does not suffice .* recompute: selective"),
    ],
)
def test_a_lost_process_and_lost_memory_are_a_sentence_and_the_training_goes_on(
    dataset, blow, message
):
    settings = small(630, epochs=2, workers=1)
    script = STRUCK.replace("{blow}", blow)
    command = [sys.executable, "-c", script, *words(settings, workers=1)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.search(message, done.stderr.splitlines()[-1])
    assert len(loop.train(settings, dataset)) == 2
    shutil.rmtree(settings.folder)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"recompute": "none"}, "recompute: selective, which changes no result"),
        ({"recompute": "selective"}, "recompute: full, which changes no result"),
        ({"recompute": "full"}, "micro_batch: 16, which computes the same gradient"),
        ({"recompute": "full", "micro_batch": 4}, "micro_batch: 2"),
        ({"recompute": "full", "micro_batch": 1}, "smaller image_size"),
    ],
)
def test_each_step_down_needs_less_memory(smoke, changes, advice):
    settings = smoke.replace(**changes)
    with pytest.raises(MemoryError, match=advice) as error, faults.explained(settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert "The memory of the GPU" in str(error.value)


def test_other_errors_are_left_as_they_are(smoke):
    with pytest.raises(RuntimeError, match="shapes differ"), faults.explained(smoke):
        raise RuntimeError("shapes differ")


def slurm_script(settings):
    """The example of docs/mimic.md, for a training that this machine can run."""
    text = DOCS.read_text()
    (script,) = re.findall(r"```bash\n(#!/bin/bash\n#SBATCH.*?)```", text, re.DOTALL)
    command = "run=mimic variant=mcr seed=0 weights=/path/to/weights"
    assert command in script
    return script.replace(command, " ".join(words(settings, workers=0)))


@pytest.fixture
def cluster(tmp_path):
    """A machine with Slurm's commands, which returns the process of a job."""
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        file = tmp_path / name
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    variables = os.environ | {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "OMP_NUM_THREADS": "1",
    }

    def submit(settings, port):
        script = tmp_path / "job.sh"
        script.write_text(slurm_script(settings).replace("29500", str(port)))
        return subprocess.Popen(
            ["bash", script],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    submit.requeued = tmp_path / "requeued"
    return submit


@pytest.mark.whole
def test_the_slurm_example_trains_requeues_after_its_signal_and_ends(dataset, cluster):
    """Two processes with gloo; its weights are those of one process, up to rounding."""
    settings = small(650, epochs=8)
    job = cluster(settings, free_port())
    wait_until((settings.folder / "history.csv").is_file, job)
    srun = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True)
    os.kill(int(srun.stdout.split()[0]), signal.SIGUSR1)  # as --signal=USR1@300 does
    printed, _ = job.communicate(timeout=120)
    assert "Asked to stop (" in printed, printed
    assert cluster.requeued.read_text() == "requeue 4711\n"

    again = cluster(settings, free_port())
    printed, _ = again.communicate(timeout=240)
    assert again.returncode == 0, printed
    assert "resuming after" in printed
    assert cluster.requeued.read_text() == "requeue 4711\n"

    shared = weights(settings)
    shutil.rmtree(settings.folder)
    loop.train(settings, dataset)
    for name, value in weights(settings).items():
        torch.testing.assert_close(shared[name], value, atol=2e-3, rtol=2e-2)
