"""A run that is shared, killed or damaged, beside one that is none of these.

As a script, with the row's number and that of kills of each kind, it prints the measurements.
Children are forked before anything is computed, so that none waits for the libraries.
"""

import functools
import json
import mmap
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from measured import row
from safetensors.torch import load_file, save_file

from mcrlib import config, pretrained
from mcrlib.data import prepare
from mcrlib.data.dataset import Dataset
from mcrlib.model import MCR
from mcrlib.training import checkpoint, loop
from mcrlib.training.checkpoint import OPTIMIZER, POSITION, Position, Saves
from mcrlib.training.faults import StopSignals
from mcrlib.training.recompute import lighten

# Dropout and augmentation are on: what is random must come back too.
TINY = config.load(
    "smoke", sizes=[48, 16, 16], batch_size=8, epochs=3, dropout=0.1, augment=True, text_depth=1,
    vision_depth=1, text_width=32, vision_width=32, embed_dim=16, decoder_width=32, vocabulary=300,
)  # fmt: skip


def forked(work: Callable[[], object]) -> int:
    """Start `work` in a process of its own, and return its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work()
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(process: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        raise RuntimeError(f"A child ended with exit code {code}.")


# Row 9


def share(rank: int, processes: int, micro: int, port: int, dataset: Dataset, home: Path) -> None:
    """Write terms and gradient of one batch that `processes` share, and train an epoch with them;
    `micro` pairs at a time.

    Without dropout, which falls elsewhere in another process.
    """
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    settings = TINY.replace(batch_size=16, epochs=1, dropout=0.0, clip_norm=1e9, micro_batch=micro)
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == processes
    model = fresh(settings, dataset)
    network = accelerator.prepare(model)
    *_, loader = loop._batches(settings, dataset, model.tokenizer, accelerator)
    terms = loop._gradient(next(iter(loader)), accelerator, network, settings, StopSignals())
    config.ROOT = home
    history = loop.train(settings, dataset)
    if rank == 0:
        terms = {f"first {name}": value for name, value in terms.items()}
        terms |= {f"mean {name}": torch.tensor(history[name][0]) for name in ("loss", "vrc", "mrm")}
        gradient = {name: p.grad for name, p in model.named_parameters()}
        save_file(terms | gradient, home / "numbers.safetensors")


def fresh(settings: config.Config, dataset: Dataset) -> MCR:
    torch.manual_seed(0)
    tokenizer = pretrained.load_tokenizer(settings, dataset.frame["report"].tolist())
    language_model = pretrained.load_language_model(settings, len(tokenizer))
    return lighten(MCR(settings, tokenizer, pretrained.load_vit(settings), language_model))


def shared(dataset: Dataset, home: Path, micro: int) -> dict:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found = []
    for processes, parts in ((1, 0), (2, micro)):
        folder = home / f"{processes}-{micro}"
        folder.mkdir()
        work = [(rank, processes, parts, port, dataset, folder) for rank in range(processes)]
        for child in [forked(lambda one=one: share(*one)) for one in work]:
            finish(child)
        found.append(load_file(folder / "numbers.safetensors"))
    one, two = found
    worst = max(float((one[name] - two[name]).abs().max()) for name in one)
    how = f"share, {micro} pairs at a time" if micro else "share"
    what = f"loss and gradient of a batch that two gloo processes {how}: within {worst:.1e}"
    return row("9", what, "one process; 1e-5", [1e-5 / max(worst, 1e-12)], 1)


def all_shared(home: Path) -> Iterator[dict]:
    dataset = prepare.build(TINY, workers=1)
    for micro in (0, 4):
        yield shared(dataset, home, micro)


# Row 10


class Watched:
    """A run in a child, which the parent can see and kill at a chosen moment.

    It begins as a user's first run does: with no prepared data and no tokens on disk.
    """

    def __init__(self, home: Path, minutes: float):
        self.home = home
        self.settings = TINY.replace(save_minutes=minutes)
        # Steps taken, saves begun, saves ended, steps saved; `final` counts as a save.
        self.seen = mmap.mmap(-1, 4)

    def __call__(self) -> None:
        config.ROOT = self.home
        add, save, end = Position.add, Saves.save, Saves.finish

        def seen_add(*given):
            add(*given)
            self.seen[0] += 1

        def seen_save(*given):
            self.seen[1] += 1
            save(*given)
            self.seen[2] += 1
            self.seen[3] = self.seen[0]

        def seen_end(saves, position):
            shutil.copytree(saves.folder / position.name, self.home / "last", dirs_exist_ok=True)
            self.seen[1] += 1
            end(saves, position)
            self.seen[2] += 1

        Position.add, Saves.save, Saves.finish = seen_add, seen_save, seen_end
        dataset = prepare.build(self.settings, workers=1)
        started = time.perf_counter()
        loop.train(self.settings, dataset)
        (self.home / "seconds").write_text(str(time.perf_counter() - started))

    def killed(self, counter: int, count: int, seconds: float) -> bool | None:
        """Kill it `seconds` after a counter came to `count`; whether inside a save, None if done.

        It is stopped first, so that what is seen is the moment of the kill.
        """
        process = forked(self)
        while self.seen[counter] < count:
            if os.waitpid(process, os.WNOHANG)[0]:
                return None
            time.sleep(1e-4)
        time.sleep(seconds)
        os.kill(process, signal.SIGSTOP)
        _, status = os.waitpid(process, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return None
        inside = self.seen[1] > self.seen[2]
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return inside


def outcome(home: Path) -> tuple[dict, dict, str]:
    """All that a run leaves: weights, moments and history, without what the clock says."""
    (final,) = home.glob("results/*/*/checkpoint/final")
    files = [home / "last" / "model.safetensors", home / "last" / OPTIMIZER]
    tensors = {
        (number, name): value.numpy().tobytes()
        for number, file in enumerate([*files, final / "model.safetensors"])
        for name, value in load_file(file).items()
    }
    position = json.loads((home / "last" / POSITION).read_text())
    for part in (*position["history"], position):
        del part["seconds"]
    log = pd.read_csv(final.parents[1] / "history.csv").drop(columns="seconds")
    return tensors, position, log.to_csv()


def kills(home: Path, n: int) -> Iterator[dict]:
    whole = Watched(home / "whole", minutes=5)
    finish(forked(whole))
    steps, expected = whole.seen[0], outcome(whole.home)
    seconds = float((whole.home / "seconds").read_text())
    step_seconds = seconds / steps  # with the start: a little long
    for inside, what, minutes in (
        (False, "in mid-epoch", 0.001),
        (True, "inside a save", 0.0),
    ):
        equal = done = 0
        while done < n:
            trial = Watched(home / "trial", minutes)
            at = random.randint(1, whole.seen[0] + inside)  # with 0 minutes, a save a step
            if trial.killed(int(inside), at, random.uniform(0, step_seconds)) is inside:
                done += 1
                again = Watched(trial.home, minutes)
                finish(forked(again))
                resumed = again.seen[0] <= steps - trial.seen[3]  # and not begun anew
                equal += resumed and outcome(trial.home) == expected
            shutil.rmtree(trial.home, ignore_errors=True)
        said = f"SIGKILL {what}, resumed: {equal} of {n} equal in weights, optimizer and history"
        yield row("10", said, "an unbroken run, every bit", [equal / n], 1)


# Row 11


def cut(file: Path, other: Path) -> None:
    os.truncate(file, random.randrange(file.stat().st_size))


def flip(file: Path, other: Path) -> None:
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)


def swap(file: Path, other: Path) -> None:
    shutil.copy(other / file.name, file)


def damage(home: Path, n: int) -> None:
    """Write to `home/refused` how many of how many damages were refused by the file's name, with
    the save before used in its place."""
    config.ROOT = home
    dataset = prepare.build(TINY, workers=1)
    model = fresh(TINY, dataset)
    optimizer = loop._optimizer(model, TINY)
    saves = Saves(TINY, dataset, model, optimizer)
    for step in (1, 2):
        sum(p.square().sum() for p in model.parameters()).backward()
        optimizer.step()
        saves.save(Position(step=step, sums={"loss": float(step)}))
    before, last = (saves.folder / name for name in sorted(saves.kept))
    shutil.copytree(last, home / "good")
    refused = tries = 0
    for name in sorted(file.name for file in last.iterdir()):
        for change in (cut, flip, swap) * n:
            change(last / name, before)
            if (last / name).read_bytes() != (home / "good" / name).read_bytes():
                tries += 1
                said = []
                checkpoint.print = lambda text, said=said, **_: said.append(text)
                at = Saves(TINY, dataset, model, optimizer).resume()
                refused += at.step == 1 and str(last / name) in said[0]
            shutil.copy(home / "good" / name, last / name)
    assert Saves(TINY, dataset, model, optimizer).resume().step == 2
    (home / "refused").write_text(json.dumps([refused, tries]))


def damaged(home: Path, n: int) -> dict:
    finish(forked(lambda: damage(home, n)))
    refused, tries = json.loads((home / "refused").read_text())
    what = f"each file of a save cut, a bit flipped, or of another save: {refused} of {tries}"
    return row("11", what, "refused by name, the save before used", [refused / tries], 1)


def rows(name: str, n: int = 30) -> list[dict]:
    """The measurements of row 9, 10 or 11, in a process of their own, since it forks."""
    command = [sys.executable, __file__, name, str(n)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(name: str, n: int) -> None:
    torch.set_num_threads(1)
    random.seed(0)
    os.environ[config.PLAIN] = "1"
    with tempfile.TemporaryDirectory() as folder:
        home = config.ROOT = Path(folder)
        measure = {
            "9": lambda: all_shared(home),
            "10": lambda: kills(home, n),
            "11": lambda: [damaged(home, max(n // 3, 1))],
        }
        for measured in measure[name]():
            print(json.dumps(measured), flush=True)


ROWS = {name: functools.partial(rows, name) for name in ("9", "10", "11")}

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
