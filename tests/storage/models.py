"""Small models as files, as zips and as wheels, and what is in a folder."""

import base64
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


def put_wheel(index: Path, project: str, files: dict[str, str] | dict[str, bytes]) -> str:
    """Write `project` 1.0 as a wheel into the index folder; return what pip requires, with its SHA-256."""

    def recorded(name: str, data: str | bytes) -> str:
        raw = hashlib.sha256(data if isinstance(data, bytes) else data.encode()).digest()
        return f"{name},sha256={base64.urlsafe_b64encode(raw).decode().rstrip('=')},{len(data)}"

    stem = f"{project.replace('-', '_')}-1.0"
    members = {
        **files,
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Dist: absent\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [*(recorded(name, data) for name, data in members.items()), f"{stem}.dist-info/RECORD,,"]
    data = zipped({**members, f"{stem}.dist-info/RECORD": "\n".join(record)})
    (index / f"{stem}-py3-none-any.whl").write_bytes(data)
    return f"{project}==1.0 --hash=sha256:{digest(data)}"


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
