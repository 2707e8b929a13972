"""What is saved loads in sentence-transformers and here with the same embeddings, and nothing else is lost."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sbertlab import SentenceTransformer, models
from sbertlab.encoder import save as folder_writer
from tests.encoder.folders import TEXTS, assert_same, peer, read

HEADS = {
    "dense": lambda: [models.Dense(32, 16)],
    "dense without bias": lambda: [models.Dense(32, 16, bias=False, activation_function=nn.Identity())],
    "dense with gelu": lambda: [models.Dense(32, 16, activation_function=nn.GELU()), models.Dense(16, 8)],
    "all": lambda: [models.Dense(32, 24), models.LayerNorm(24), models.Dropout(0.1), models.Normalize()],
}


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_folder_loads_here_and_in_version_6_with_the_same_embeddings(head, tiny, tmp_path):
    torch.manual_seed(1)
    model = tiny(modules=HEADS[head]())
    for block in model.modules():  # a fresh norm is the identity: give it something to lose
        if isinstance(block, models.LayerNorm):
            nn.init.normal_(block.norm.weight)
    model.save(tmp_path / "model")
    assert_same(model, peer(tmp_path / "model"))
    assert_same(model, read(tmp_path / "model"))


ON_TOKENS = {  # block, its size, texts that version 6 agrees on
    "weighted layers": (lambda: models.WeightedLayerPooling(32, 2, 1, torch.tensor([0.5, 2.0])), 32, 4),
    "recurrent": (lambda: models.LSTM(32, 8, num_layers=2), 16, 0),
    "convolution": (lambda: models.CNN(32, 8), 24, 1),  # version 6 convolves over padding as well
}


@pytest.mark.parametrize("kind", ON_TOKENS)
def test_a_block_on_token_vectors_survives(kind, tiny, tmp_path):
    make, size, agreed = ON_TOKENS[kind]
    model = SentenceTransformer(modules=[tiny()[0], make(), models.Pooling(size)], device="cpu")
    model[0].auto_model.config.output_hidden_states = True
    model.save(tmp_path / "model")
    assert_same(model, read(tmp_path / "model"))
    if agreed:
        texts = TEXTS[:agreed]
        np.testing.assert_allclose(model.encode(texts), peer(tmp_path / "model").encode(texts), atol=1e-5)


def test_a_static_embedding_survives(tiny, tmp_path):
    model = SentenceTransformer(modules=[models.StaticEmbedding.from_transformer(tiny()[0])], device="cpu")
    model.tokenizer.truncation_side, model.max_seq_length = "left", 2
    model.save(tmp_path / "model")
    assert_same(model, peer(tmp_path / "model"))
    assert_same(model, read(tmp_path / "model"))


def test_routes_survive_and_shared_blocks_stay_shared(tiny, tmp_path):
    shared = models.Dense(32, 8)
    routes = {"query": [shared], "document": [models.Dense(32, 16), models.Dense(16, 8)], "other": [shared]}
    model = tiny(modules=[models.Router(routes, default_route="document", allow_empty_key=False)])
    model.save(tmp_path / "model")
    ours, theirs = read(tmp_path / "model"), peer(tmp_path / "model")
    for route in routes:
        assert_same(model, ours, task=route)
        assert_same(model, theirs, task=route)
    assert np.abs(model.encode(TEXTS, task="query") - model.encode(TEXTS, task="document")).max() > 1e-3
    router = ours[2]
    assert router.route("query")[0] is router.route("other")[0]


def test_a_router_without_default_is_written_as_version_2_writes_asym(tiny, tmp_path):
    router = models.Asym({"query": [models.Dense(32, 8)], "doc": [models.Dense(32, 8)]})
    tiny(modules=[router]).save(tmp_path / "model")
    entry = json.loads((tmp_path / "model" / "modules.json").read_text())[2]
    assert entry["type"] == "sentence_transformers.models.Asym"
    config = json.loads((tmp_path / "model" / entry["path"] / "config.json").read_text())
    assert set(config) == {"types", "structure", "parameters"}
    assert config["parameters"] == {"allow_empty_key": True}
    assert_same(read(tmp_path / "model"), peer(tmp_path / "model"), task="query")


def test_the_portable_dialect_has_the_files_and_keys_of_version_2(tiny, tmp_path):
    def content(name):
        return json.loads((tmp_path / name).read_text())

    tiny(modules=[models.Dense(32, 16), models.Normalize()]).save(tmp_path)
    names = ("Transformer", "Pooling", "Dense", "Normalize")
    assert [entry["type"] for entry in content("modules.json")] == [f"sentence_transformers.models.{n}" for n in names]
    assert content("sentence_bert_config.json") == {"max_seq_length": 64, "do_lower_case": False}
    assert content("tokenizer_config.json")["model_max_length"] == 64
    flags = {f"pooling_mode_{mode}" for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
    assert set(content("1_Pooling/config.json")) == {"word_embedding_dimension", *flags}
    assert set(content("2_Dense/config.json")) == {"in_features", "out_features", "bias", "activation_function"}
    pickled = torch.load(tmp_path / "2_Dense" / "pytorch_model.bin", weights_only=True)
    safe = load_file(tmp_path / "2_Dense" / "model.safetensors")
    assert set(pickled) == set(safe) == {"linear.weight", "linear.bias"}
    assert all(torch.equal(pickled[name], safe[name]) for name in safe)
    assert list((tmp_path / "3_Normalize").iterdir())


def test_settings_length_and_lower_casing_survive(tiny, tmp_path):
    model = tiny()
    backend = model[0].tokenizer.backend_tokenizer
    backend.normalizer = type(backend.normalizer)(lowercase=False)
    model[0].do_lower_case = True
    model.prompts, model.default_prompt_name = {"query": "question: ", "zwölf": "größe"}, "query"
    model.similarity_fn_name, model.truncate_dim, model.max_seq_length = "dot", 8, 5
    model.save(tmp_path / "model")
    shouted = [text.upper() for text in TEXTS]
    for loaded in (read(tmp_path / "model"), peer(tmp_path / "model")):
        assert (loaded.default_prompt_name, loaded.similarity_fn_name, loaded.truncate_dim) == ("query", "dot", 8)
        assert loaded.max_seq_length == 5
        assert {name: loaded.prompts[name] for name in model.prompts} == model.prompts
        assert_same(model, loaded)
        np.testing.assert_allclose(loaded.encode(shouted), model.encode(TEXTS), atol=1e-5)


def test_tokens_added_just_before_saving_are_saved(tiny, tmp_path):
    model = tiny()
    model.tokenizer.add_tokens(["[DOC]"], special_tokens=True)
    with pytest.warns(UserWarning, match="1 tokens were added"):
        model.save(tmp_path / "model")
    np.testing.assert_allclose(read(tmp_path / "model").encode("[DOC] a cat"), model.encode("[DOC] a cat"), atol=1e-6)


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (lambda: models.Dense(32, 8, activation_function=nn.LeakyReLU(0.3)), r"LeakyReLU\(negative_slope=0.3\) cannot"),
        (lambda: nn.Linear(32, 1), r"Linear cannot be saved: it is not a subclass of sbertlab\.models\.Module"),
        *((lambda r=r: models.Router({r: [models.Dense(32, 8)]}), "cannot name a folder") for r in ("/tmp/x", "a b")),
    ],
)
def test_what_the_format_would_lose_or_put_elsewhere_is_refused(block, said, tiny, tmp_path):
    model = tiny()
    model.append(block())
    with pytest.raises(ValueError, match=said):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_model_card_names_model_sizes_blocks_and_data(tiny, tmp_path):
    model = tiny(modules=[models.Dense(32, 8)])
    model.save(tmp_path / "model", model_name="my model", train_datasets=["helpdesk"])
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    for part in ("# my model", '["helpdesk"]', "up to 64 tokens to vectors of 8 dimensions", "cosine similarity"):
        assert part in card
    blocks = card.split("```")[-2].strip().splitlines()
    assert blocks[:2] == ["0. Transformer(max_seq_length=64, architecture=BertModel)", "1. Pooling(32, 'mean')"]
    model.save(tmp_path / "bare", create_model_card=False)
    assert not (tmp_path / "bare" / "README.md").exists()


def test_saving_again_replaces_the_model_and_keeps_other_files(tiny, tmp_path):
    folder = tmp_path / "model"
    tiny(modules=[models.Dense(32, 16)]).save(folder)
    others = ("eval/scores.csv", "checkpoints/5/state", "notes.json", "2024_results/table", "exp_1_Final/x", ".hidden")
    for name in (*others, "added_tokens.json", "special_tokens_map.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    model = tiny(seed=5)
    model.save(folder, create_model_card=False)
    assert_same(model, read(folder))
    for name in ("2_Dense", "added_tokens.json", "special_tokens_map.json"):
        assert not (folder / name).exists()
    for name in others:
        assert (folder / name).read_text() == name
    assert (folder / "README.md").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_into_a_folder_that_is_no_model_keeps_all_that_is_not_overwritten(tiny, tmp_path):
    for name in ("vocab.txt", "config.json", "data.csv"):
        (tmp_path / name).write_text("mine")
    tiny().save(tmp_path)
    assert (tmp_path / "vocab.txt").read_text() == (tmp_path / "data.csv").read_text() == "mine"
    assert (tmp_path / "config.json").read_text() != "mine"


@pytest.mark.parametrize("failing", ["save_file", "write_json", "_write_transformer"])
def test_a_failure_while_saving_leaves_the_earlier_model(failing, tiny, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    tiny(modules=[models.Dense(32, 16)]).save(tmp_path / "model")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    monkeypatch.setattr(folder_writer, failing, fail)
    with pytest.raises(KeyboardInterrupt):
        tiny(seed=5, modules=[models.Dense(32, 4)]).save(tmp_path / "model")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
