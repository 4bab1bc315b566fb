"""Locks between processes, which the kernel releases when their holder dies (ours)."""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mcrlib.files import explained

# What flock fails with on disks of a network that have no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_open: set[int] = set()  # descriptors of the lock files that this process has open


class Busy(OSError):
    """Another process holds a lock; the text names that process."""


@contextlib.contextmanager
def lock(
    path: Path, *, shared: bool = False, wait: float = 0.0, notice: str = ""
) -> Iterator[None]:
    """Hold the lock file `path`, which says in its text who holds it.

    `shared` holders exclude exclusive ones only. The kernel releases the lock when the process
    dies, however that happens. Waits up to `wait` seconds for another holder, after printing
    `notice` with that holder's name for `{holder}`; raises Busy, with the name as its text, if the
    lock is still held then. Nothing is locked on a disk that is read-only or has no locks.
    """
    descriptor = _open_lock(path)
    if descriptor is None:
        yield
        return
    try:
        _acquire(descriptor, shared, wait, notice)
        if not shared:
            _sign(descriptor)
        yield
    finally:
        if descriptor in _open:  # not in a child that was forked in between
            _open.remove(descriptor)
            os.close(descriptor)


def _open_lock(path: Path) -> int | None:
    """A descriptor of the lock file; None on a disk that cannot be written to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return None
        raise explained(error, path) from error
    _open.add(descriptor)
    return descriptor


def _acquire(descriptor: int, shared: bool, wait: float, notice: str) -> None:
    latest = time.monotonic() + wait
    while not _try(descriptor, shared):
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        if time.monotonic() >= latest:
            raise Busy(holder)
        if notice:
            print(notice.format(holder=holder), flush=True)
            notice = ""
        time.sleep(0.05)


def _try(descriptor: int, shared: bool) -> bool:
    """Whether the lock is ours now; true also if the disk has no locks."""
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _sign(descriptor: int) -> None:
    """Write who holds the lock. A full disk must not prevent it, so the text may be missing."""
    text = f"process {os.getpid()} on {os.uname().nodename}"
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _close_all() -> None:
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()


# A lock lasts as long as any process has its descriptor open. A fork copies descriptors, so without
# this a worker that outlives a killed run would keep its lock.
os.register_at_fork(after_in_child=_close_all)
