"""Locks between processes, which the system gives back when their process ends, however it ends."""

import shutil
from contextlib import contextmanager


@contextmanager
def exclusive(path, busy):
    """Hold a lock, which is a file that stays there empty.

    Raises BlockingIOError(busy), at once, where another process holds it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(busy) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(folder, busy):
    """Hold the lock of a folder, `.lock` in it, and delete the `.tmp-*` that a kill has left there.

    Raises as `exclusive` does.
    """
    with exclusive(folder / ".lock", busy):
        for left in folder.glob(".tmp-*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
