"""What ends a long training early, in one sentence each: a scheduler's signal, a batch process that
was killed, memory that ran out (ours).

A signal is not obeyed in the middle of a step. `StopSignals` notes it, the loop finishes its step,
saves, and raises `Stopped`. `python -m mcrlib.training` then exits with the code RETRY, by which a
job script knows that it should run again.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch

from mcrlib.config import Config

RETRY = getattr(os, "EX_TEMPFAIL", 75)  # of sysexits.h: a temporary failure, try again later

# SIGTERM is what schedulers and `kill` send; SIGUSR1 is what Slurm can send some time before that.
SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
]  # Windows has no SIGUSR1

# Begins PyTorch's message, which can interrupt a step anywhere: no place to save.
WORKER_DIED = "DataLoader worker"
CPU_MEMORY = "can't allocate memory"  # is in the message of PyTorch's CPU allocator


class Stopped(Exception):
    """A signal asked for the end of training, and the position was saved."""


class StopSignals:
    """Notes signals that ask for the end, while it is entered: `with StopSignals() as signals`.

    Signals can be caught in a program's main thread only; in another one none is ever noted.
    """

    def __init__(self):
        self.received = ""  # name of the first signal
        self.former = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self.former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name


def leave_process_group(worker: int) -> None:
    """Called in a loader's worker: what is sent to the training's whole process group, by a
    scheduler or by Ctrl-C, is the main process's to obey."""
    if hasattr(os, "setpgrp"):  # Windows has no process groups
        os.setpgrp()


@contextlib.contextmanager
def explained(config: Config) -> Iterator[None]:
    """Turn PyTorch's errors on lost processes and on memory into a sentence with a way out.

    Raises ChildProcessError for the former and MemoryError for the latter.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(_out_of_memory("the GPU", config)) from error
    except RuntimeError as error:
        if CPU_MEMORY in str(error):
            raise MemoryError(_out_of_memory("this machine", config)) from error
        if str(error).startswith(WORKER_DIED):
            raise ChildProcessError(_worker_died(config)) from error
        raise


def _out_of_memory(where: str, config: Config) -> str:
    return (
        f"The memory of {where} does not suffice for this step; the last save is kept. "
        f"{_lighter_settings(config)}"
    )


def _lighter_settings(config: Config) -> str:
    """Which settings need less memory than those of `config`."""
    if config.recompute == "none":
        return (
            "Run again with recompute: selective, which changes no result and needs half of the "
            "activations; the training goes on from there."
        )
    if config.recompute == "selective":
        return (
            "Run again with recompute: full, which changes no result and needs the least memory; "
            "the training goes on from there."
        )
    micro_batch = (config.micro_batch or config.batch_size) // 2
    if micro_batch == 0:
        return "One pair alone does not fit: use a smaller model or a smaller image_size."
    return (
        f"Train anew with micro_batch: {micro_batch}, which computes the same gradient from parts "
        "of the batch: remove this model's folder first."
    )


def _worker_died(config: Config) -> str:
    fewer = config.workers // 2
    return (
        "A process that prepares batches was killed, most likely since memory ran out: run again "
        f"with fewer than the {config.workers} `workers`, such as workers: {fewer}. The last save "
        "is kept, and the training goes on from there."
    )
