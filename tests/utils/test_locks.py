import subprocess
import sys

import pytest

from robustgen.utils import locks


def hold(path):
    """A process that holds the lock, and that has said so."""
    code = ("import pathlib, sys; from robustgen.utils import locks\n"
            "with locks.exclusive(pathlib.Path(sys.argv[1]), 'busy'): print('held', flush=True); sys.stdin.read()")
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("end", [lambda process: process.stdin.close(), lambda process: process.kill()],
                         ids=["ends", "is killed"])
def test_a_lock_is_free_when_its_process(tmp_path, end):
    path = tmp_path / "new/folder/run.lock"
    with hold(path) as process:
        with pytest.raises(BlockingIOError, match="^it is busy$"), locks.exclusive(path, "it is busy"):
            raise AssertionError("two processes hold one lock")
        end(process)
        process.wait()
        with locks.exclusive(path, "it is busy"):
            pass


def test_a_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), locks.exclusive(tmp_path / "lock", "busy"):
        raise KeyError
    with locks.exclusive(tmp_path / "lock", "busy"):
        pass
