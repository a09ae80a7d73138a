"""Files that can be downloaded again: where they are looked for, how they are fetched and checked."""

import contextlib
import hashlib
import http.client
import io
import os
import textwrap
import urllib.request

from . import paths

TIMEOUT = 20   # seconds without an answer


def digest(path, algorithm):
    """The checksum of a file in hexadecimal; `algorithm` is "md5" or "sha256"."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def retrieve(url):
    """The bytes behind an address as a BytesIO, with a progress bar; OSError where they end early, or are a web page,
    as from a network that wants a login."""
    from tqdm import tqdm

    body, total = io.BytesIO(), None
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            total = int(reply.headers.get("Content-Length", 0)) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar:
                while chunk := reply.read(1 << 18):
                    body.write(chunk)
                    bar.update(len(chunk))
    except http.client.HTTPException as error:   # is no OSError
        raise OSError(f"{url} was cut off ({shortened(error)})") from None
    if total and body.tell() != total:
        raise OSError(f"{url} was cut off at {body.tell()} of {total} bytes")
    body.seek(0)
    if body.getvalue()[:200].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise OSError(f"{url} gave a web page in place of the file")
    return body


def given_folder():
    """The folder named by ROBUSTGEN_DATA, None where it is not set. `~` is the user's home; a relative path counts
    from the repository, as notebooks and stages run in different folders.

    Raises NotADirectoryError, which names the remedy, if it is no folder.
    """
    given = os.environ.get("ROBUSTGEN_DATA")
    if not given:
        return None
    folder = paths.ROOT / os.path.expanduser(given)
    if not folder.is_dir():
        raise NotADirectoryError(f"ROBUSTGEN_DATA should name a folder, and {folder} is none; make it, or correct or "
                                 "unset the variable")
    return folder


def folders():
    """Where files that stay outside the repository are looked for: the folder named by ROBUSTGEN_DATA, then the user's
    cache; either may be lacking."""
    found = [given_folder()]
    with contextlib.suppress(FileNotFoundError):
        found.append(paths.cache_folder())
    return [folder for folder in found if folder]


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
