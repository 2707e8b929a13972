"""Model folders: every dialect is read, what is written loads in sentence-transformers, and nothing hostile is run."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import (
    LayerNorm,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
)
from torch import nn

from sbertlab import SentenceTransformer, models
from sbertlab.encoder import save as folder_writer
from sbertlab.encoder.load import load_modules
from sbertlab.encoder.save import save_modules

Tiny = Callable[..., SentenceTransformer]
TEXTS = [
    "the cat sits on the red chair",
    "where is my parcel?",
    "a",
    "reset the password for my new e mail account now",
]
SETTINGS: dict[str, Any] = {
    "prompts": {},
    "default_prompt_name": None,
    "similarity_fn_name": "cosine",
    "truncate_dim": None,
}


def peer(folder: Path, **arguments: Any) -> sentence_transformers.SentenceTransformer:
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu", **arguments)


def read(folder: Path, **arguments: Any) -> SentenceTransformer:
    return SentenceTransformer(folder, device="cpu", **arguments)


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON object; None removes one."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def assert_same(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    """Two encoders give the same vectors, and vectors that differ from text to text."""
    ours, theirs = first.encode(TEXTS), second.encode(TEXTS)
    assert np.abs(ours[0] - ours[1]).max() > 1e-4
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)


@pytest.fixture
def folder(tiny: Tiny, tmp_path: Path) -> Path:
    """A tiny model with a Dense layer in the portable dialect."""
    tiny(modules=[models.Dense(32, 16), models.Normalize()]).save(tmp_path / "model")
    return tmp_path / "model"


# Writing: what we save is what sentence-transformers 6.2 and we load

BLOCKS: dict[str, Callable[[], list[models.Module]]] = {
    "dense": lambda: [models.Dense(32, 16)],
    "dense without bias": lambda: [models.Dense(32, 16, bias=False, activation_function=nn.Identity())],
    "dense with gelu": lambda: [models.Dense(32, 16, activation_function=nn.GELU()), models.Dense(16, 8)],
    "layer norm": lambda: [models.LayerNorm(32)],
    "dropout": lambda: [models.Dropout(0.3)],
    "normalize": lambda: [models.Normalize()],
    "all": lambda: [models.Dense(32, 24), models.LayerNorm(24), models.Dropout(0.1), models.Normalize()],
}


@pytest.mark.parametrize("blocks", BLOCKS)
def test_a_saved_folder_loads_here_and_in_version_6_with_the_same_embeddings(
    blocks: str, tiny: Tiny, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = tiny(modules=BLOCKS[blocks]())
    for block in model.modules():  # a fresh norm is the identity: give it something to lose
        if isinstance(block, models.LayerNorm):
            nn.init.normal_(block.norm.weight)
    model.save(tmp_path / "model")
    assert_same(model, peer(tmp_path / "model"))
    assert_same(model, read(tmp_path / "model"))


@pytest.mark.parametrize("mode", [*models.POOLING_MODES, ["cls", "mean", "max"]])
def test_every_pooling_mode_survives(mode: str | list[str], tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(pooling=mode)
    model.save(tmp_path / "model")
    assert_same(model, peer(tmp_path / "model"))
    assert_same(model, read(tmp_path / "model"))


def with_blocks_on_tokens(tiny: Tiny, block: models.Module, size: int) -> SentenceTransformer:
    return SentenceTransformer(modules=[tiny()[0], block, models.Pooling(size)], device="cpu")


def test_weighted_layer_pooling_survives(tiny: Tiny, tmp_path: Path) -> None:
    weights = torch.tensor([0.5, 2.0])
    model = with_blocks_on_tokens(tiny, models.WeightedLayerPooling(32, 2, 1, weights), 32)
    model[0].auto_model.config.output_hidden_states = True
    model.save(tmp_path / "model")
    assert_same(model, peer(tmp_path / "model"))
    assert_same(model, read(tmp_path / "model"))


def test_a_recurrent_layer_survives(tiny: Tiny, tmp_path: Path) -> None:
    model = with_blocks_on_tokens(tiny, models.LSTM(32, 8, num_layers=2), 16)
    model.save(tmp_path / "model")
    assert_same(model, read(tmp_path / "model"))


def test_a_convolution_survives(tiny: Tiny, tmp_path: Path) -> None:
    model = with_blocks_on_tokens(tiny, models.CNN(32, 8), 24)
    model.save(tmp_path / "model")
    assert_same(model, read(tmp_path / "model"))
    single = TEXTS[:1]  # version 6 convolves over padding as well, so the two agree on texts without any
    np.testing.assert_allclose(model.encode(single), peer(tmp_path / "model").encode(single), atol=1e-5)


def test_a_static_embedding_survives(tiny: Tiny, tmp_path: Path) -> None:
    model = SentenceTransformer(modules=[models.StaticEmbedding.from_transformer(tiny()[0])], device="cpu")
    model.save(tmp_path / "model")
    assert (tmp_path / "model" / "tokenizer.json").is_file()
    assert_same(model, peer(tmp_path / "model"))
    assert_same(model, read(tmp_path / "model"))


def test_routes_survive_and_shared_blocks_stay_shared(tiny: Tiny, tmp_path: Path) -> None:
    shared = models.Dense(32, 8)
    routes = {"query": [shared], "document": [models.Dense(32, 16), models.Dense(16, 8)], "other": [shared]}
    model = tiny(modules=[models.Router(routes, default_route="document", allow_empty_key=False)])
    model.save(tmp_path / "model")
    ours, theirs = read(tmp_path / "model"), peer(tmp_path / "model")
    for route in routes:
        expected = model.encode(TEXTS, task=route)
        np.testing.assert_allclose(ours.encode(TEXTS, task=route), expected, atol=1e-6)
        np.testing.assert_allclose(theirs.encode(TEXTS, task=route), expected, atol=1e-5)
    assert np.abs(model.encode(TEXTS, task="query") - model.encode(TEXTS, task="document")).max() > 1e-3
    router = ours[2]
    assert isinstance(router, models.Router)
    assert router.route("query")[0] is router.route("other")[0]  # type: ignore[index]


def test_a_router_without_default_is_written_as_version_2_writes_asym(tiny: Tiny, tmp_path: Path) -> None:
    router = models.Asym({"query": [models.Dense(32, 8)], "doc": [models.Dense(32, 8)]})
    tiny(modules=[router]).save(tmp_path / "model")
    entry = json.loads((tmp_path / "model" / "modules.json").read_text())[2]
    assert entry["type"] == "sentence_transformers.models.Asym"
    config = json.loads((tmp_path / "model" / entry["path"] / "config.json").read_text())
    assert set(config) == {"types", "structure", "parameters"}
    assert config["parameters"] == {"allow_empty_key": True}
    assert set(config["types"].values()) == {"sentence_transformers.models.Dense"}
    theirs = peer(tmp_path / "model")
    np.testing.assert_allclose(
        read(tmp_path / "model").encode(TEXTS, task="query"), theirs.encode(TEXTS, task="query"), atol=1e-5
    )


def test_the_portable_dialect_has_the_files_and_keys_of_version_2(folder: Path) -> None:
    def keys(name: str) -> set[str]:
        return set(json.loads((folder / name).read_text()))

    types = [entry["type"] for entry in json.loads((folder / "modules.json").read_text())]
    assert types == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")
    ]
    assert json.loads((folder / "sentence_bert_config.json").read_text()) == {
        "max_seq_length": 64,
        "do_lower_case": False,
    }
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 64
    flags = {f"pooling_mode_{mode}" for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
    assert keys("1_Pooling/config.json") == {"word_embedding_dimension", *flags}
    assert keys("2_Dense/config.json") == {"in_features", "out_features", "bias", "activation_function"}
    pickled = torch.load(folder / "2_Dense" / "pytorch_model.bin", weights_only=True)
    safe = load_file(folder / "2_Dense" / "model.safetensors")
    assert set(pickled) == set(safe) == {"linear.weight", "linear.bias"}
    assert all(torch.equal(pickled[name], safe[name]) for name in safe)
    assert list((folder / "3_Normalize").iterdir())


def test_settings_and_length_survive(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    model.prompts, model.default_prompt_name = {"query": "question: ", "zwölf": "größe"}, "query"
    model.similarity_fn_name, model.truncate_dim, model.max_seq_length = "dot", 8, 5
    model.save(tmp_path / "model")
    ours, theirs = read(tmp_path / "model"), peer(tmp_path / "model")
    assert ours.prompts == model.prompts
    assert (ours.default_prompt_name, ours.similarity_fn_name, ours.truncate_dim) == ("query", "dot", 8)
    assert ours.max_seq_length == theirs.max_seq_length == 5
    assert (theirs.default_prompt_name, theirs.similarity_fn_name, theirs.truncate_dim) == ("query", "dot", 8)
    assert_same(model, ours)
    assert_same(model, theirs)


def test_lower_casing_survives(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    backend = model[0].tokenizer.backend_tokenizer
    backend.normalizer = type(backend.normalizer)(lowercase=False)
    model[0].do_lower_case = True
    model.save(tmp_path / "model")
    shouted = [text.upper() for text in TEXTS]
    for loaded in (read(tmp_path / "model"), peer(tmp_path / "model")):
        np.testing.assert_allclose(loaded.encode(shouted), model.encode(TEXTS), atol=1e-5)


def test_the_real_model_survives(minilm: SentenceTransformer, tmp_path: Path) -> None:
    minilm.save(tmp_path / "model")
    assert_same(minilm, peer(tmp_path / "model"))
    assert_same(minilm, read(tmp_path / "model"), 1e-6)


def test_an_activation_with_arguments_is_refused_because_the_format_would_lose_them(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(modules=[models.Dense(32, 8, activation_function=nn.LeakyReLU(0.3))])
    with pytest.raises(ValueError, match=r"LeakyReLU\(negative_slope=0.3\) cannot be saved"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_foreign_blocks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Linear cannot be saved: it is not a subclass of sbertlab\.models\.Module"):
        save_modules({"0": nn.Linear(1, 1)}, tmp_path / "model", SETTINGS)


@pytest.mark.parametrize("route", ["/tmp/outside", "a/b", "a b"])
def test_a_route_that_would_leave_the_folder_is_not_written(route: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(modules=[models.Router({route: [models.Dense(32, 8)]})])
    with pytest.raises(ValueError, match="cannot name a folder"):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# Writing over an earlier model


def test_saving_again_replaces_the_model_and_keeps_other_files(tiny: Tiny, folder: Path) -> None:
    others = ("eval/scores.csv", "checkpoints/5/state", "notes.json", "2024_results/table", "exp_1_Final/x", ".hidden")
    for name in (*others, "model-00001-of-00002.safetensors", "spiece.model"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    model = tiny(seed=5)
    model.save(folder, create_model_card=False)
    assert_same(model, read(folder))
    assert not (folder / "2_Dense").exists()
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert not (folder / "spiece.model").exists()
    for name in others:
        assert (folder / name).read_text() == name
    assert (folder / "README.md").is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_saving_into_a_folder_that_is_no_model_keeps_all_that_is_not_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("vocab.txt", "config.json", "data.csv"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "target").mkdir()
    for name in ("vocab.txt", "config.json", "data.csv"):
        shutil.copy(tmp_path / name, tmp_path / "target")
    tiny().save(tmp_path / "target")
    assert (tmp_path / "target" / "vocab.txt").read_text() == (tmp_path / "target" / "data.csv").read_text() == "mine"
    assert (tmp_path / "target" / "config.json").read_text() != "mine"


@pytest.mark.parametrize("failing", ["save_file", "write_json", "_write_transformer"])
def test_a_failure_while_saving_leaves_the_earlier_model(
    failing: str, tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(folder_writer, failing, fail)
    with pytest.raises(KeyboardInterrupt):
        tiny(seed=5, modules=[models.Dense(32, 4)]).save(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


# Reading what sentence-transformers 6.2 writes


@pytest.fixture
def bert(tiny: Tiny, tmp_path: Path) -> Path:
    """A plain transformers folder."""
    model = tiny()
    model[0].auto_model.save_pretrained(tmp_path / "bert")
    model[0].tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_dense_norm_and_normalize_of_version_6_load_here(bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    norm = LayerNorm(16)
    nn.init.normal_(norm.norm.weight)
    blocks = [Transformer(str(bert), max_seq_length=9), Pooling(32, ("cls", "mean")), Dense(64, 16), norm, Normalize()]
    model = sentence_transformers.SentenceTransformer(
        modules=blocks, device="cpu", prompts={"query": "question "}, similarity_fn_name="euclidean"
    )
    model.save(str(tmp_path / "model"))
    ours = read(tmp_path / "model")
    assert_same(ours, model)
    assert ours.max_seq_length == 9
    assert ours.prompts["query"] == "question "
    assert ours.similarity_fn_name == "euclidean"


def test_a_router_of_version_6_loads_here(bert: Path, tmp_path: Path) -> None:
    router = Router.for_query_document(
        query_modules=[Transformer(str(bert)), Pooling(32), Dense(32, 8)],
        document_modules=[StaticEmbedding(Transformer(str(bert)).tokenizer, embedding_dim=8)],
    )
    model = sentence_transformers.SentenceTransformer(modules=[router, Normalize()], device="cpu")
    model.save(str(tmp_path / "model"))
    assert (tmp_path / "model" / "router_config.json").is_file()
    ours = read(tmp_path / "model")
    for route in ("query", "document"):
        np.testing.assert_allclose(ours.encode(TEXTS, task=route), model.encode(TEXTS, task=route), atol=1e-5)
    ours.save(tmp_path / "again")
    again = peer(tmp_path / "again")
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-5)


def test_a_static_embedding_in_the_layout_of_model2vec_loads_here(bert: Path, tmp_path: Path) -> None:
    static = StaticEmbedding(Transformer(str(bert)).tokenizer, embedding_dim=8)
    model = sentence_transformers.SentenceTransformer(modules=[static], device="cpu")
    model.save(str(tmp_path / "model"))
    save_file({"embeddings": static.embedding.weight.detach()}, tmp_path / "model" / "model.safetensors")
    assert_same(read(tmp_path / "model"), model)


def test_weighted_layer_pooling_of_version_6_loads_here(bert: Path, tmp_path: Path) -> None:
    first = Transformer(str(bert), config_kwargs={"output_hidden_states": True})
    weights = nn.Parameter(torch.tensor([1.0, 3.0]))
    mix = WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1, layer_weights=weights)
    model = sentence_transformers.SentenceTransformer(modules=[first, mix, Pooling(32)], device="cpu")
    model.save(str(tmp_path / "model"))
    assert_same(read(tmp_path / "model"), model)


# Reading folders written by hand, as versions 2.2 to 5 left them


def by_hand(bert: Path, entries: list[tuple[str, str]], files: dict[str, Any]) -> Path:
    """Turn a plain folder into a model folder: (path, type) of the modules, and JSON files."""
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(entries)
    ]
    for name, content in {"modules.json": modules, **files}.items():
        (bert / name).parent.mkdir(parents=True, exist_ok=True)
        (bert / name).write_text(json.dumps(content))
    return bert


POOLING = {
    "word_embedding_dimension": 32,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
DENSE = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def test_a_folder_of_version_2_loads_with_the_embeddings_of_the_formula(bert: Path, tiny: Tiny) -> None:
    folder = by_hand(
        bert,
        [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3_Normalize", "Normalize")],
        {
            "sentence_bert_config.json": {"max_seq_length": 7, "do_lower_case": False},
            "1_Pooling/config.json": POOLING,
            "2_Dense/config.json": DENSE,
            "config_sentence_transformers.json": {"__version__": {"sentence_transformers": "2.2.0"}},
        },
    )
    weight, bias = torch.randn(8, 32), torch.randn(8)
    torch.save({"linear.weight": weight, "linear.bias": bias}, folder / "2_Dense" / "pytorch_model.bin")
    ours = read(folder)
    assert ours.max_seq_length == 7
    assert_same(ours, peer(folder))
    bare = tiny()
    bare.max_seq_length = 7
    expected = torch.tanh(torch.from_numpy(bare.encode(TEXTS)) @ weight.T + bias)
    np.testing.assert_allclose(ours.encode(TEXTS), nn.functional.normalize(expected), atol=1e-5)


def test_the_middle_dialect_loads(bert: Path) -> None:
    later = {"pooling_mode_weightedmean_tokens": True, "pooling_mode_lasttoken": True, "include_prompt": True}
    folder = by_hand(
        bert,
        [("", "Transformer"), ("1_Pooling", "Pooling")],
        {
            "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
            "1_Pooling/config.json": {**POOLING, **later},
            "config_sentence_transformers.json": {"prompts": {"q": "question "}, "default_prompt_name": "q"},
        },
    )
    ours = read(folder)
    assert ours[1].modes == ("mean", "weightedmean", "lasttoken")
    assert ours.default_prompt_name == "q"
    assert_same(ours, peer(folder))


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_the_old_names_of_the_length_file_are_read(kind: str, bert: Path) -> None:
    files = {f"sentence_{kind}_config.json": {"max_seq_length": 6}, "1_Pooling/config.json": POOLING}
    folder = by_hand(bert, [("", "Transformer"), ("1_Pooling", "Pooling")], files)
    assert read(folder).max_seq_length == 6


def test_asym_of_version_2_loads_by_route(bert: Path) -> None:
    types = {f"{name}_Dense": "sentence_transformers.models.Dense" for name in ("1", "2")}
    asym = {
        "types": types,
        "structure": {"QRY": ["1_Dense"], "DOC": ["2_Dense"]},
        "parameters": {"allow_empty_key": True},
    }
    entries = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Asym", "Asym")]
    dense = {f"2_Asym/{name}_Dense/config.json": DENSE for name in ("1", "2")}
    folder = by_hand(bert, entries, {"1_Pooling/config.json": POOLING, "2_Asym/config.json": asym, **dense})
    for name in ("1", "2"):
        state = {"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}
        torch.save(state, folder / "2_Asym" / f"{name}_Dense" / "pytorch_model.bin")
    ours, theirs = read(folder), peer(folder)
    for route in ("QRY", "DOC"):
        np.testing.assert_allclose(ours.encode(TEXTS, task=route), theirs.encode(TEXTS, task=route), atol=1e-5)


def test_a_plain_folder_gets_mean_pooling(bert: Path, tiny: Tiny) -> None:
    modules, settings = load_modules(bert)
    assert [type(module).__name__ for module in modules.values()] == ["Transformer", "Pooling"]
    assert settings == {**SETTINGS, "similarity_fn_name": None}
    assert_same(read(bert), tiny())
    assert_same(read(bert), peer(bert))


@pytest.mark.parametrize("gone", ["pytorch_model.bin", "model.safetensors"])
def test_either_kind_of_weights_will_do(gone: str, folder: Path) -> None:
    expected = read(folder).encode(TEXTS)
    (folder / "2_Dense" / gone).unlink()
    np.testing.assert_array_equal(read(folder).encode(TEXTS), expected)


def test_a_length_beyond_the_positions_is_cut_with_a_warning(folder: Path) -> None:
    edit_json(folder / "sentence_bert_config.json", max_seq_length=100)
    with pytest.warns(UserWarning, match="max_seq_length 100 is reduced to the model's 64 positions"):
        assert read(folder).max_seq_length == 64


def test_unknown_keys_are_left_out_with_a_warning(folder: Path) -> None:
    expected = read(folder).encode(TEXTS)
    edit_json(folder / "2_Dense" / "config.json", from_the_future=1)
    with pytest.warns(UserWarning, match=r"2_Dense/config.json: unknown keys \['from_the_future'\] are ignored"):
        np.testing.assert_array_equal(read(folder).encode(TEXTS), expected)


def test_arguments_in_the_folder_reach_transformers_only_where_they_are_harmless(folder: Path) -> None:
    harmful = {"attn_implementation": "someone/kernel", "trust_remote_code": True, "output_hidden_states": True}
    edit_json(folder / "sentence_bert_config.json", model_args=harmful)
    with pytest.warns(UserWarning, match=r"model_args \['attn_implementation'\] are ignored"):
        model = read(folder)
    assert model[0].auto_model.config.output_hidden_states is True


# Damaged folders: every message names the file


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", "[{", "modules.json is not valid JSON"),
        ("modules.json", "{}", "modules.json holds a JSON dict, expected a list"),
        ("modules.json", "[]", "modules.json lists no modules"),
        ("modules.json", "[7]", "modules.json: entry 0 must be an object"),
        ("modules.json", "[" * 100_000, "modules.json is not valid JSON"),
        ("1_Pooling/config.json", "\xff\xfe", "1_Pooling/config.json is not valid JSON"),
        ("1_Pooling/config.json", "{}", "1_Pooling/config.json does not describe a Pooling"),
        (
            "1_Pooling/config.json",
            '{"word_embedding_dimension": 32, "pooling_mode": "best"}',
            "pooling_mode must name",
        ),
        (
            "1_Pooling/config.json",
            '{"word_embedding_dimension": 31}',
            "1_Pooling .* 31, but .* returns 32",
        ),
        ("2_Dense/config.json", '{"in_features": 30, "out_features": 16}', "2_Dense/model.safetensors does not fit"),
        ("2_Dense/config.json", '{"in_features": 32}', "2_Dense/config.json does not describe a Dense"),
        ("2_Dense/config.json", '{"in_features": 32, "out_features": 17}', r"linear.bias is \(16,\), expected \(17,\)"),
        ("2_Dense/config.json", json.dumps({**DENSE, "in_features": -1}), "does not describe a Dense"),
        ("2_Dense/config.json", json.dumps({**DENSE, "use_residual": True}), "use_residual is True"),
        ("2_Dense/config.json", json.dumps({**DENSE, "module_input_name": "x"}), "module_input_name is 'x'"),
        ("2_Dense/model.safetensors", "no weights", "2_Dense/model.safetensors cannot be read as plain weights"),
        (
            "sentence_bert_config.json",
            '{"max_seq_length": "long"}',
            "max_seq_length must be a positive number of tokens",
        ),
        ("sentence_bert_config.json", '{"transformer_task": "fill-mask"}', "transformer_task is 'fill-mask'"),
        ("sentence_bert_config.json", '{"modality_config": {"text": {"method": "see"}}}', "modality_config has"),
        ("config_sentence_transformers.json", '{"model_type": "SparseEncoder"}', "model_type is 'SparseEncoder'"),
        ("config_sentence_transformers.json", '{"prompts": {"a": 1}}', "prompts must map names to texts"),
        ("config.json", '{"model_type": "no-such-model"}', "model cannot be loaded by transformers"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("model.safetensors", "no weights", "model cannot be loaded by transformers"),
        ("tokenizer.json", "{}", "model cannot be loaded by transformers"),
    ],
)
def test_a_damaged_file_is_named(file: str, content: str, said: str, folder: Path) -> None:
    (folder / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=said):
        load_modules(folder)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/config.json", "config.json"])
def test_a_missing_file_is_named(file: str, folder: Path) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is missing"):
        load_modules(folder)


def test_weights_that_do_not_fit_the_architecture_are_not_filled_with_random_numbers(folder: Path) -> None:
    edit_json(folder / "config.json", hidden_size=16, intermediate_size=32)
    with pytest.raises(ValueError, match="model cannot be loaded by transformers"):
        load_modules(folder)


# Hostile folders: nothing from them is run


class Bomb:
    """Unpickled without care, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return Path.touch, (self.file,)  # type: ignore[return-value]


@pytest.mark.parametrize("where", ["2_Dense", "."])
def test_pickled_code_is_never_run(where: str, folder: Path, tmp_path: Path) -> None:
    (folder / where / "model.safetensors").unlink()
    torch.save({"linear.weight": Bomb(tmp_path / "executed")}, folder / where / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"2_Dense/pytorch_model.bin cannot be read as plain|cannot be loaded by transf"
    ):
        load_modules(folder)
    (folder / where / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(
        ValueError, match=r"2_Dense/pytorch_model.bin cannot be read as plain|cannot be loaded by transf"
    ):
        load_modules(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("path", ["../outside", "/etc", "1_Pooling/../../outside", "..\\outside", "C:x", None, 5])
def test_a_module_path_that_leaves_the_folder_is_refused(path: object, folder: Path) -> None:
    shutil.copytree(folder / "1_Pooling", folder.parent / "outside")
    entries = json.loads((folder / "modules.json").read_text())
    entries[1]["path"] = path
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"modules.json: the path .* leaves the model's folder and is refused"):
        load_modules(folder)


@pytest.mark.parametrize("path", ["../../1_Pooling", "", ".", "/etc"])
def test_a_route_that_leaves_its_folder_or_contains_itself_is_refused(path: str, tiny: Tiny, tmp_path: Path) -> None:
    tiny(modules=[models.Router({"a": [models.Dense(32, 8)]})]).save(tmp_path / "model")
    file = tmp_path / "model" / "2_Asym" / "config.json"
    content = {"types": {path: "sentence_transformers.models.Asym"}, "structure": {"a": [path]}, "parameters": {}}
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"2_Asym/config.json: the path .* refused"):
        load_modules(tmp_path / "model")


def change_type(folder: Path, position: int, dotted: str) -> None:
    entries = json.loads((folder / "modules.json").read_text())
    entries[position]["type"] = dotted
    (folder / "modules.json").write_text(json.dumps(entries))


def test_blocks_that_we_do_not_have_are_named(folder: Path) -> None:
    change_type(folder, 1, "sentence_transformers.models.WordWeights")
    with pytest.raises(
        ValueError, match=r"modules.json: sbertlab has no block sentence_transformers.models.WordWeights"
    ):
        load_modules(folder)


OUTSIDE = """
from pathlib import Path
import torch
from sbertlab import models

Path(__file__).with_name("executed").touch()


class Scale(models.Module):
    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)))

    def forward(self, features):
        return {**features, "sentence_embedding": self.factor * features["sentence_embedding"]}

    def config(self):
        return {"factor": 2.0}


class Shift(torch.nn.Module):
    def forward(self, x):
        return x + 1
"""


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package of someone else; returns the file that importing it makes."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "somebodys_blocks.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(__import__("sys").modules, "somebodys_blocks", raising=False)
    return tmp_path / "packages" / "executed"


@pytest.mark.parametrize("trust", [False, [], ["somebodys_blocks.Other"], "somebodys_blocks.Other"])
def test_a_class_from_outside_is_refused_unless_named(trust: Any, folder: Path, outside: Path) -> None:
    change_type(folder, 2, "somebodys_blocks.Scale")
    with pytest.raises(ValueError, match=r"is not run.*trust_remote_code=\['somebodys_blocks.Scale'\]"):
        load_modules(folder, trust_remote_code=trust)
    assert not outside.exists()


@pytest.mark.parametrize("trust", [True, ["somebodys_blocks.Scale"]])
def test_a_class_from_outside_is_loaded_where_it_is_named(
    trust: Any, tiny: Tiny, tmp_path: Path, outside: Path
) -> None:
    import somebodys_blocks  # type: ignore[import-not-found]

    block = somebodys_blocks.Scale()
    block.factor.data.fill_(7.0)
    tiny(modules=[block]).save(tmp_path / "model")
    modules, _ = load_modules(tmp_path / "model", trust_remote_code=trust)
    assert modules["2"].factor.item() == 7.0


def test_an_activation_from_outside_is_refused_unless_named(folder: Path, outside: Path) -> None:
    edit_json(folder / "2_Dense" / "config.json", activation_function="somebodys_blocks.Shift")
    with pytest.raises(ValueError, match=r"2_Dense/config.json names the class 'somebodys_blocks.Shift'"):
        load_modules(folder)
    assert not outside.exists()
    modules, _ = load_modules(folder, trust_remote_code=["somebodys_blocks.Shift"])
    assert modules["2"].activation_function(1) == 2  # type: ignore[operator]


def test_code_beside_the_transformer_is_not_run(folder: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n"
    (folder / "modeling_evil.py").write_text(code + "class Evil: pass\nclass EvilConfig: pass\n")
    auto_map = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.EvilConfig"}
    edit_json(folder / "config.json", auto_map=auto_map, model_type="evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_modules(folder)
    assert not (tmp_path / "executed").exists()


def test_saving_onto_a_file_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("precious")
    with pytest.raises(NotADirectoryError, match="is a file; pass the path of a folder"):
        tiny().save(tmp_path / "model")
    assert (tmp_path / "model").read_text() == "precious"


def test_the_transformer_may_lie_in_a_folder_of_its_own(bert: Path, tmp_path: Path) -> None:
    shutil.move(bert, tmp_path / "model" / "0_Transformer")
    files = {"0_Transformer/sentence_bert_config.json": {"max_seq_length": 6}, "1_Pooling/config.json": POOLING}
    folder = by_hand(tmp_path / "model", [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")], files)
    ours = read(folder)
    assert ours.max_seq_length == 6
    assert_same(ours, peer(folder))


def test_missing_weights_are_named(folder: Path) -> None:
    for file in ("model.safetensors", "pytorch_model.bin"):
        (folder / "2_Dense" / file).unlink()
    with pytest.raises(FileNotFoundError, match=r"2_Dense has neither model.safetensors nor pytorch_model.bin"):
        load_modules(folder)


def test_a_folder_that_is_no_model_or_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not a model folder: it has neither modules.json nor config.json"):
        load_modules(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_modules(tmp_path / "absent")


@pytest.mark.parametrize("activation", ["torch.nn.modules.activation.Nothing", "os.system", "torch.hub.load", "Tanh"])
def test_an_activation_that_is_none_is_refused(activation: str, folder: Path) -> None:
    edit_json(folder / "2_Dense" / "config.json", activation_function=activation)
    with pytest.raises(ValueError, match=r"2_Dense/config.json"):
        load_modules(folder)


def test_what_is_trusted_but_absent_or_no_module_is_named(folder: Path) -> None:
    for dotted, said in (
        ("absent_package.Block", "cannot be imported"),
        ("json.JSONDecoder", "not a class of torch.nn"),
    ):
        change_type(folder, 2, dotted)
        with pytest.raises(ValueError, match=said):
            load_modules(folder, trust_remote_code=[dotted])
