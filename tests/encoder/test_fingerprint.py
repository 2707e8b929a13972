"""Fingerprints: what changes them, what does not, and what has none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from tokenizers import normalizers
from torch import nn

import sbertlab
from sbertlab import SentenceTransformer, models
from sbertlab.encoder.fingerprint import ENCODING, MEASURING, fingerprint, source_digest
from sbertlab.encoder.stored_embeddings import EmbeddingStore, StoredEmbeddings

PACKAGE = Path(sbertlab.__file__).parent


class Sized:
    """An encoder with one setting, defined in a file."""

    def __init__(self, dim=4):
        self.dim = dim

    def encode(self, texts):
        return np.array([[len(text)] * self.dim for text in texts], dtype=np.float32)


class Scaled(models.Module):
    """A building block of one's own, with a plain attribute that torch knows nothing of."""

    def __init__(self, factor, table=None):
        super().__init__()
        self._factor, self.table = factor, table

    def forward(self, features):
        return {**features, "sentence_embedding": self._factor * features["sentence_embedding"]}


def one_bit(model):
    model[0].auto_model.encoder.layer[1].output.dense.weight.data.view(torch.int32)[3, 5] ^= 1


def lower_case(model):
    model.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)


def other_padding(model):
    model.insert(1, models.CNN(32, 32, [3]))
    next(part for part in model.modules() if isinstance(part, nn.Conv1d)).padding = (0,)


def pooling(*arguments, **settings):
    return lambda model: model.__setitem__(1, models.Pooling(32, *arguments, **settings))


CHANGES = {
    "nothing": lambda model: None,
    "one bit of the weights": one_bit,
    "the sign of a zero": lambda model: model[0].auto_model.encoder.layer[0].output.dense.bias.data.neg_(),
    "dtype": lambda model: model.half(),
    "length": lambda model: setattr(model, "max_seq_length", 20),
    "lower case": lambda model: setattr(model[0], "do_lower_case", True),
    "a word more": lambda model: model.tokenizer.add_tokens(["aardvark"]),
    "normaliser": lower_case,
    "side of the padding": lambda model: setattr(model.tokenizer, "padding_side", "left"),
    "pooling": pooling("cls"),
    "order of poolings": pooling(["max", "mean"]),
    "other order of poolings": pooling(["mean", "max"]),
    "pooling without the prompt": pooling(include_prompt=False),
    "activation": lambda model: setattr(model[2], "activation_function", nn.ReLU()),
    "epsilon": lambda model: setattr(model[0].auto_model.embeddings.LayerNorm, "eps", 1e-5),
    "a convolution": lambda model: model.insert(1, models.CNN(32, 32, [3])),
    "padding of a convolution": other_padding,
    "a block more": lambda model: model.append(models.Normalize()),
    "a block of one's own": lambda model: model.append(Scaled(1.0)),
    "with another setting": lambda model: model.append(Scaled(2.0)),
    "with a table": lambda model: model.append(Scaled(1.0, table=np.arange(3))),
    "with another table": lambda model: model.append(Scaled(1.0, table=np.arange(4))),
    "with a tensor": lambda model: model.append(Scaled(1.0, table=torch.arange(3))),
    "prompts": lambda model: model.prompts.update(query="query: "),
    "default prompt": lambda model: setattr(model, "default_prompt_name", "query"),
    "truncated": lambda model: setattr(model, "truncate_dim", 3),
}


def dense(tiny):
    torch.manual_seed(1)
    return tiny(modules=[models.Dense(32, 5, activation_function=nn.Tanh())])


def test_every_change_that_embeddings_depend_on_has_a_fingerprint_of_its_own(tiny):
    found = {}
    for name, change in CHANGES.items():
        model = dense(tiny)
        change(model)
        found[name] = fingerprint(model)
    assert fingerprint(dense(tiny)) == found["nothing"]
    same = {name for name in found if list(found.values()).count(found[name]) > 1}
    assert not same
    assert all(len(value) == 64 for value in found.values())


def test_what_embeddings_do_not_depend_on_leaves_the_fingerprint_alone(tiny, tmp_path):
    model = dense(tiny)
    before = fingerprint(model)
    model.encode(["the cat sits", "a dog"], batch_size=1)
    model.train()
    model.similarity_fn_name = "dot"
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert fingerprint(model) == before
    model.save(tmp_path / "a")
    assert fingerprint(SentenceTransformer(tmp_path / "a", device="cpu")) == before
    (tmp_path / "a").rename(tmp_path / "b")
    assert fingerprint(SentenceTransformer(tmp_path / "b", device="cpu")) == before


def test_an_adapter_and_its_strength_change_the_fingerprint(tiny):
    peft = pytest.importorskip("peft")
    model = tiny()
    found = {fingerprint(model)}
    model[0].auto_model.add_adapter(peft.LoraConfig(r=2, target_modules=["query"]))
    found.add(fingerprint(model))
    layer = model[0].auto_model.encoder.layer[0].attention.self.query
    layer.scaling["default"] = 7.0
    found.add(fingerprint(model))
    model[0].auto_model.disable_adapters()
    found.add(fingerprint(model))
    assert len(found) == 4


def pipeline(dimensions=2):
    words = TfidfVectorizer(stop_words=["padding", "the"])
    return make_pipeline(words, TruncatedSVD(dimensions, random_state=0)).fit(["the cat sits", "a dog runs", "cat dog"])


OTHER_PROCESS = f"""
import sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}]
from test_fingerprint import fingerprint, pipeline
from conftest import tiny_transformer
made = pipeline()
print(fingerprint(made), fingerprint(tiny_transformer()))
"""


@pytest.mark.slow
def test_a_fingerprint_is_the_same_in_another_process_and_after_use(tiny):
    made = pipeline()
    before = fingerprint(made)
    made.transform(["cat"])
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.split()[0] == before == fingerprint(made) == fingerprint(pipeline())
    assert done.stdout.split()[1] == fingerprint(tiny()[0])


def test_what_a_pipeline_was_fitted_on_and_how_is_in_its_fingerprint():
    other = make_pipeline(TfidfVectorizer(stop_words=["padding", "the"]), TruncatedSVD(2, random_state=0))
    models_ = [pipeline(), pipeline(1), other.fit(["the cat sits", "a dog runs", "cat bird"]), Sized(3), Sized(4)]
    words = [TfidfVectorizer(vocabulary={"padding": 0, "cat": 1}), TfidfVectorizer(vocabulary={"dtype": 0, "cat": 1})]
    assert len({fingerprint(model) for model in [*models_, *words]}) == 7


def test_code_that_may_change_unseen_is_refused_with_a_store_and_serves_without(tiny, tmp_path, monkeypatch):
    class Local(Sized):
        pass

    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    typed_in = type("TypedIn", (Sized,), {"__module__": "__main__", "__qualname__": "TypedIn"})
    for model in (Local(), typed_in()):
        with pytest.raises(TypeError, match="cannot be fingerprinted, so use no store"):
            StoredEmbeddings(model, EmbeddingStore(tmp_path))
        assert StoredEmbeddings(model).encode(["a"]).shape == (1, 4)
    model = tiny(modules=[Scaled(1.0, table=lambda x: x)])
    with pytest.raises(TypeError, match="lambda"):
        StoredEmbeddings(model, EmbeddingStore(tmp_path))
    assert StoredEmbeddings(model).encode(["a"]).shape == (1, 32)


UNREAD = ("widgets", "plots", "analysis/intervals.py", "benchmark/results.py", "commands")
"""What draws or reads finished numbers."""


@pytest.mark.parametrize("part", [*MEASURING, *UNREAD])
def test_an_edit_changes_the_digests_of_the_numbers_that_follow_from_it(part, tmp_path):
    root = tmp_path / "package"
    shutil.copytree(PACKAGE, root)
    before = [source_digest.__wrapped__(parts, root) for parts in (ENCODING, MEASURING)]
    path = sorted((root / part).rglob("*.py"))[0] if (root / part).is_dir() else root / part
    path.write_text(path.read_text() + "# edited\n")
    after = [source_digest.__wrapped__(parts, root) for parts in (ENCODING, MEASURING)]
    changed = [one != other for one, other in zip(before, after, strict=True)]
    assert changed == [part in ENCODING, part in MEASURING]


def test_a_part_that_does_not_exist_is_refused_instead_of_hashed_as_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="would not notice"):
        source_digest.__wrapped__(("models",), tmp_path)
