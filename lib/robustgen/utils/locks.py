"""Locks between processes, which the system gives back when their process ends, however it ends."""

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
