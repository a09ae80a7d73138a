"""Where things are, and how a file appears whole or not at all."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


def shown(source):
    """The path as a user would type it from the repository's root."""
    try:
        return source.relative_to(ROOT).as_posix()
    except (AttributeError, ValueError):
        return str(source)


ROOT = Path(__file__).resolve().parents[3]
PARAMS = ROOT / "params"
DATA = ROOT / "data"
RESULTS = ROOT / "results"


def cache_folder():
    """The user's folder for what can be downloaded again: robustgen/ in XDG_CACHE_HOME, else in ~/.cache.

    Raises FileNotFoundError where the user has no home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:   # the variable is void if it is relative
        return (given if given.is_absolute() else Path.home() / ".cache") / "robustgen"
    except RuntimeError:
        raise FileNotFoundError("there is no home folder to keep it in; set HOME or XDG_CACHE_HOME") from None


@contextmanager
def atomic(path):
    """Give a temporary path beside `path`; on success it takes the place of `path`, on failure it goes.

    The temporary may become a file or a folder. A folder replaces an older one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nest = Path(tempfile.mkdtemp(prefix=f".tmp-{path.name}-", dir=path.parent))
    try:
        yield nest / path.name
        if path.is_dir():
            path.rename(nest / "old")   # a folder cannot be renamed onto one that has files
        os.replace(nest / path.name, path)
    finally:
        shutil.rmtree(nest, ignore_errors=True)


def write_text(path, text):
    """Write a text file whole or not at all."""
    with atomic(path) as new:
        new.write_text(text, encoding="utf-8")
