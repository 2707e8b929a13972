"""Small models as files, and what is in a folder."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path

MODEL = {
    "modules.json": json.dumps(
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    ),
    "config.json": "{}",
    "model.safetensors": "weights",
}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_model(folder: Path, files: dict[str, str] = MODEL) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def zipped(files: dict[str, str] | dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.suffix != ".lock"]
