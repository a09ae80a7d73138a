"""Files that can be downloaded again: where they are looked for, how they are fetched and checked."""

import hashlib
import io
import os
import textwrap
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


def obtain(title, url, *forms, put="it", fetch=None):
    """Paths of the files of a form, each with the right checksum: found in one of the `folders`, or else downloaded.

    title    what is said to be missing.
    forms    alternatives, each {file: (algorithm, first digits of its checksum), or None where none is known}. The
             first one is the single file that `url` gives.
    put      what users are to put into their folder, in words.
    fetch    fetches what is in none of them: `download_to`, or another function of its kind.

    Raises FileNotFoundError where the files are not to be had, OSError for a wrong checksum; both name the remedy.
    """
    for folder in folders():
        for form in forms:
            found = [folder / file for file in form]
            if all(path.is_file() for path in found):
                for path, checksum in zip(found, form.values()):
                    check_whole(path, checksum, url)
                return found
    (file, checksum), = forms[0].items()
    try:
        path = (fetch or download_to)(url, paths.cache_folder() / file, checksum)
    except Exception as error:   # whatever goes wrong, the remedy is the same
        raise FileNotFoundError(f"{title} is missing, and could not be had from {url} ({shortened(error)}); put {put} "
                                "in the folder named by ROBUSTGEN_DATA") from error
    check_whole(path, checksum, url)
    return [path]


def check_whole(path, checksum, url):
    """Raise OSError if a file's checksum is another one."""
    if checksum and not digest(path, checksum[0]).startswith(checksum[1]):
        raise OSError(f"{path} is damaged (wrong checksum); put a good copy in its place, or delete it to have that of "
                      f"{url}")


def download_to(url, path, checksum=None):
    """Download a file to `path`, whole and with the right checksum, or not at all; return the path."""
    with paths.atomic(path) as new:
        new.write_bytes(retrieve(url).getbuffer())
        if checksum and not digest(new, checksum[0]).startswith(checksum[1]):
            raise OSError("wrong checksum")
    return path


def shortened(error):
    """An error's message in at most 200 characters, else its kind."""
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
