"""Small models as files, as zips and as wheels, and what is in a folder."""

import hashlib
import io
import json
import warnings
import zipfile

MODEL = {
    "modules.json": json.dumps([{"path": "", "type": "sentence_transformers.models.Transformer"}]),
    "config.json": "{}",
    "model.safetensors": "weights",
}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def write_model(folder, files=MODEL):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def zipped(files, *more, how=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a name that occurs twice
        for name, text in (*files.items(), *more):
            archive.writestr(name, text)
    return buffer.getvalue()


def put_wheel(index, project, files):
    """Write `project` 1.0 as a wheel into the index folder; return what pip requires, with its SHA-256."""
    name = f"{project.replace('-', '_')}-1.0"
    metadata = f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\nRequires-Dist: absent\n"
    data = zipped({**files, f"{name}.dist-info/METADATA": metadata, f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\n"})
    (index / f"{name}-py3-none-any.whl").write_bytes(data)
    return f"{project}==1.0 --hash=sha256:{digest(data)}"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
