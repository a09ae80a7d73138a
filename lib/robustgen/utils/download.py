"""Files that can be downloaded again: where they are looked for, how they are fetched and checked."""

import hashlib
import io
import os
import urllib.request
from pathlib import Path

from . import paths


def digest(path, algorithm):
    """The checksum of a file in hexadecimal; `algorithm` is "md5" or "sha256"."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def retrieve(url):
    """The bytes behind an address as a BytesIO, with a progress bar; OSError where they end early."""
    from tqdm import tqdm

    with urllib.request.urlopen(url, timeout=20) as reply:
        total = int(reply.headers.get("Content-Length", 0)) or None
        body = io.BytesIO()
        with tqdm(total=total, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar:
            while chunk := reply.read(1 << 18):
                body.write(chunk)
                bar.update(len(chunk))
    if total and body.tell() != total:
        raise OSError(f"{url} was cut off at {body.tell()} of {total} bytes")
    body.seek(0)
    return body


def folders():
    """Where files that stay outside the repository are looked for: the folder named by ROBUSTGEN_DATA, then the user's
    cache."""
    given = os.environ.get("ROBUSTGEN_DATA")
    return ([Path(given)] if given else []) + [paths.cache_folder()]


def found(*files):
    """The path of the first of these files that one of the `folders` has, or None."""
    return next((path for folder in folders() for file in files if (path := folder / file).is_file()), None)


def whole(path, algorithm, digits):
    """Whether a file's checksum begins with `digits`."""
    return digest(path, algorithm).startswith(digits)


def fetch(url, path, checksum=None):
    """Download a file to `path`, whole and with the right checksum, (algorithm, first digits), or not at all."""
    with paths.atomic(path) as new:
        new.write_bytes(retrieve(url).getbuffer())
        if checksum and not whole(new, *checksum):
            raise OSError("wrong checksum")
