"""The commands embed and convert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sbertlab import SentenceTransformer
from sbertlab.__main__ import main
from sbertlab.commands.train import embed_file
from sbertlab.data import InputExample, examples_to_frame

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


@pytest.mark.parametrize("target", ["out.npy", "out.csv", "out.parquet"])
@pytest.mark.parametrize("source", ["in.txt", "in.csv", "in.jsonl"])
def test_embed_writes_what_encode_returns(source: str, target: str, tmp_path: Path, folder: str) -> None:
    texts = [f"the cat sits {n}" * (1 + n % 3) for n in range(8)]
    frame = pd.DataFrame({"text": texts})
    if source == "in.txt":
        (tmp_path / source).write_text("\n".join(texts) + "\n\n")
    elif source == "in.csv":
        frame.to_csv(tmp_path / source, index=False)
    else:
        frame.to_json(tmp_path / source, orient="records", lines=True)
    if target == "out.parquet":
        pytest.importorskip("pyarrow")
    embed_file(folder, str(tmp_path / source), str(tmp_path / target), normalize=True)
    if target == "out.npy":
        found = np.load(tmp_path / target)
        assert found.dtype == np.float32
    elif target == "out.csv":
        written = pd.read_csv(tmp_path / target)
        assert written.pop("text").tolist() == texts
        found = written.to_numpy()
    else:
        written = pd.read_parquet(tmp_path / target)
        assert written["text"].tolist() == texts
        found = np.stack(written["embedding"])
    expected = SentenceTransformer(folder).encode(texts, normalize_embeddings=True)
    assert np.allclose(found, expected, atol=1e-5)
    assert not list(tmp_path.glob(".*.part"))


def test_bad_files_of_embed_are_refused(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples_to_frame([InputExample(texts=["a"])], ["question"]).to_csv(tmp_path / "a.csv", index=False)
    for source, target, message in [
        ("a.csv", "o.npy", "missing the columns ['text']; it has ['guid', 'question', 'label']"),
        ("a.csv", "o.bin", "must be one of '.npy', '.parquet', '.csv', got '.bin'"),
        ("none.txt", "o.npy", "No such file"),
    ]:
        assert main(["embed", folder, str(tmp_path / source), str(tmp_path / target)]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o.npy").exists()


def test_convert_reads_a_folder_of_transformers(tmp_path: Path, tiny: Callable[..., SentenceTransformer]) -> None:
    model = tiny()
    model[0].auto_model.save_pretrained(tmp_path / "plain")
    model.tokenizer.save_pretrained(tmp_path / "plain")
    assert main(["convert", str(tmp_path / "plain"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "modules.json").is_file()
    assert np.allclose(SentenceTransformer(tmp_path / "out").encode("a dog"), model.encode("a dog"), atol=1e-6)
