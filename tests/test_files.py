"""Writing files: whole, or one clear sentence. Locks that die with their holder."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mcrlib import plots, results, tables
from mcrlib.files import write
from mcrlib.locks import Busy, lock

HOLDER = """
import sys, time
from pathlib import Path
from mcrlib.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def no_room(size):
    """No file may grow beyond `size` bytes, which a program sees as it sees a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def save_numbers(stem):
    results.save(f"{stem}.json", {"recall": [0.5] * 9})


def save_embeddings(stem):
    results.save_embeddings(f"{stem}.npz", np.eye(9), np.eye(9), [str(i) for i in range(9)])


def save_table(stem):
    tables.save_table(stem, pd.DataFrame({"model": ["mcr"] * 9}), "caption")


def save_figure(stem):
    plots.save(Figure(), stem)


PRODUCTS = {
    save_numbers: "product.json",
    save_embeddings: "product.npz",
    save_table: "product.csv",
    save_figure: "product.png",
}


@pytest.mark.parametrize("save", PRODUCTS)
def test_a_full_disk_is_one_sentence_with_the_path_and_keeps_what_was_there(save, tmp_path):
    file = tmp_path / PRODUCTS[save]
    file.write_bytes(b"old")
    with no_room(8), pytest.raises(OSError, match="could not be written") as caught:
        save(tmp_path / "product")
    sentence = str(caught.value)
    assert str(file) in sentence and "Make room" in sentence and "\n" not in sentence
    assert caught.value.errno == errno.EFBIG
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("save", PRODUCTS)
def test_a_folder_in_a_file_s_place_is_named(save, tmp_path):
    file = tmp_path / PRODUCTS[save]
    file.mkdir()
    with pytest.raises(IsADirectoryError, match="rename or remove the folder") as caught:
        save(tmp_path / "product")
    assert str(file) in str(caught.value)
    assert file.is_dir()


def test_a_file_in_a_folder_s_place_is_named(tmp_path):
    (tmp_path / "results").write_text("a file")
    for path in (tmp_path / "results/numbers.json", tmp_path / "results/demo/numbers.json"):
        with pytest.raises(OSError, match="rename or remove the file") as caught:
            write(path, b"new")
        assert str(path) in str(caught.value)
    assert (tmp_path / "results").read_text() == "a file"


def hold(path):
    """Another process that holds the lock."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_lock_names_its_holder_and_is_free_when_that_is_killed(tmp_path):
    path = tmp_path / "folder" / "a.lock"
    holder = hold(path)
    for shared in (False, True):
        with pytest.raises(Busy, match=f"process {holder.pid} on "), lock(path, shared=shared):
            pass
    holder.kill()
    holder.wait()
    with lock(path):
        pass


def test_a_waiting_process_says_so_once_and_goes_on(tmp_path, capsys):
    holder = hold(tmp_path / "a.lock")
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {holder.pid}"])
    with lock(tmp_path / "a.lock", wait=60, notice="{holder} is at work"):
        pass
    assert capsys.readouterr().out.startswith(f"process {holder.pid} on ")
    holder.wait()


def test_readers_share_a_lock_and_keep_a_writer_out(tmp_path):
    path = tmp_path / "a.lock"
    with lock(path, shared=True), lock(path, shared=True), pytest.raises(Busy), lock(path):
        pass
    with lock(path):
        pass


def test_a_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path):
    """As with the workers that load batches, which end seconds after a killed training."""
    path = tmp_path / "a.lock"
    parent = os.fork()
    if parent == 0:
        with lock(path):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            (tmp_path / "child").write_text(str(child))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(parent, 0)
    child = int((tmp_path / "child").read_text())
    try:
        with lock(path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
