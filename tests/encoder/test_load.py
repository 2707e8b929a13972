"""Model folders: every dialect of sentence-transformers is read, damage is named, and nothing hostile is run."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.torch import save_file
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling, StaticEmbedding, WeightedLayerPooling
from torch import nn

from sbertlab import models
from tests.encoder.folders import TEXTS, assert_same, peer, read


@pytest.fixture
def folder(tiny, tmp_path):
    """A tiny model with a Dense layer in the portable dialect."""
    tiny(modules=[models.Dense(32, 16), models.Normalize()]).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def bert(tiny, tmp_path):
    """A plain transformers folder."""
    model = tiny()
    model[0].auto_model.save_pretrained(tmp_path / "bert")
    model[0].tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def edit_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def saved(folder, modules, **settings):
    model = sentence_transformers.SentenceTransformer(modules=modules, device="cpu", **settings)
    model.save(str(folder))
    return model


def test_dense_norm_and_normalize_of_version_6_load_here(bert, tmp_path):
    torch.manual_seed(2)
    norm = LayerNorm(16)
    nn.init.normal_(norm.norm.weight)
    blocks = [Transformer(str(bert), max_seq_length=9), Pooling(32, ("cls", "mean")), Dense(64, 16), norm, Normalize()]
    settings = {"prompts": {"query": "question "}, "similarity_fn_name": "euclidean"}
    model = saved(tmp_path / "model", blocks, **settings)
    ours = read(tmp_path / "model")
    assert_same(ours, model)
    assert (ours.max_seq_length, ours.prompts["query"], ours.similarity_fn_name) == (9, "question ", "euclidean")


def test_a_router_of_version_6_loads_here_and_goes_back(bert, tmp_path):
    router = Router.for_query_document(
        query_modules=[Transformer(str(bert)), Pooling(32), Dense(32, 8)],
        document_modules=[StaticEmbedding(Transformer(str(bert)).tokenizer, embedding_dim=8)],
    )
    model = saved(tmp_path / "model", [router, Normalize()])
    ours = read(tmp_path / "model")
    for route in ("query", "document"):
        assert_same(ours, model, task=route)
    ours.save(tmp_path / "again")
    np.testing.assert_allclose(peer(tmp_path / "again").encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-5)


def test_a_static_embedding_in_the_layout_of_model2vec_loads_here(bert, tmp_path):
    static = StaticEmbedding(Transformer(str(bert)).tokenizer, embedding_dim=8)
    model = saved(tmp_path / "model", [static])
    weights = {"embeddings": static.embedding.weight.detach()}
    save_file(weights, tmp_path / "model" / "model.safetensors")
    assert_same(read(tmp_path / "model"), model)
    save_file({**weights, "mapping": torch.arange(3)}, tmp_path / "model" / "model.safetensors")
    with pytest.raises(ValueError, match=r"must hold one matrix .* got \['embeddings', 'mapping'\]"):
        read(tmp_path / "model")


def test_weighted_layer_pooling_of_version_6_loads_here(bert, tmp_path):
    first = Transformer(str(bert), config_kwargs={"output_hidden_states": True})
    weights = nn.Parameter(torch.tensor([1.0, 3.0]))
    mix = WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1, layer_weights=weights)
    model = saved(tmp_path / "model", [first, mix, Pooling(32)])
    assert_same(read(tmp_path / "model"), model)


def by_hand(bert, entries, files):
    """Turn a plain folder into a model folder: path and type of the modules, and JSON files."""
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(entries.items())
    ]
    for name, content in {"modules.json": modules, **files}.items():
        (bert / name).parent.mkdir(parents=True, exist_ok=True)
        (bert / name).write_text(json.dumps(content))
    return bert


PLAIN = {"": "Transformer", "1_Pooling": "Pooling"}
POOLING = {
    "word_embedding_dimension": 32,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}
DENSE = {"in_features": 32, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}


def test_a_folder_of_version_2_loads_with_the_embeddings_of_the_formula(bert, tiny):
    folder = by_hand(
        bert,
        {**PLAIN, "2_Dense": "Dense", "3_Normalize": "Normalize"},
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
    assert_same(ours, peer(folder))
    bare = tiny()
    bare.max_seq_length = 7
    expected = torch.tanh(torch.from_numpy(bare.encode(TEXTS)) @ weight.T + bias)
    np.testing.assert_allclose(ours.encode(TEXTS), nn.functional.normalize(expected), atol=1e-5)


def test_the_middle_dialect_loads(bert):
    later = {"pooling_mode_weightedmean_tokens": True, "pooling_mode_lasttoken": True, "include_prompt": True}
    settings = {"prompts": {"q": "question "}, "default_prompt_name": "q"}
    files = {"1_Pooling/config.json": {**POOLING, **later}, "config_sentence_transformers.json": settings}
    folder = by_hand(bert, PLAIN, files)
    ours = read(folder)
    assert ours[1].modes == ("mean", "weightedmean", "lasttoken")
    assert_same(ours, peer(folder))


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "xlnet"])
def test_the_transformer_may_lie_in_a_folder_of_its_own_with_an_older_length_file(kind, bert, tmp_path):
    shutil.move(bert, tmp_path / "model" / "0_Transformer")
    entries = {"0_Transformer": "Transformer", "1_Pooling": "Pooling"}
    files = {f"0_Transformer/sentence_{kind}_config.json": {"max_seq_length": 6}, "1_Pooling/config.json": POOLING}
    folder = by_hand(tmp_path / "model", entries, files)
    ours = read(folder)
    assert ours.max_seq_length == 6
    assert read(tmp_path / "model", tokenizer_kwargs={"model_max_length": 5}).max_seq_length == 5
    assert_same(ours, peer(folder))


def test_asym_of_version_2_loads_by_route(bert):
    names = ("1_Dense", "2_Dense")
    asym = {
        "types": dict.fromkeys(names, "sentence_transformers.models.Dense"),
        "structure": {"QRY": ["1_Dense"], "DOC": ["2_Dense"]},
        "parameters": {"allow_empty_key": True},
    }
    dense = {f"2_Asym/{name}/config.json": DENSE for name in names}
    files = {"1_Pooling/config.json": POOLING, "2_Asym/config.json": asym, **dense}
    folder = by_hand(bert, {**PLAIN, "2_Asym": "Asym"}, files)
    for name in names:
        state = {"linear.weight": torch.randn(8, 32), "linear.bias": torch.randn(8)}
        torch.save(state, folder / "2_Asym" / name / "pytorch_model.bin")
    for route in ("QRY", "DOC"):
        assert_same(read(folder), peer(folder), task=route)


def test_a_plain_folder_gets_mean_pooling(bert, tiny):
    assert_same(read(bert), tiny())
    assert_same(read(bert), peer(bert))


@pytest.mark.parametrize("gone", ["pytorch_model.bin", "model.safetensors"])
def test_either_kind_of_weights_will_do(gone, folder):
    expected = read(folder).encode(TEXTS)
    (folder / "2_Dense" / gone).unlink()
    np.testing.assert_array_equal(read(folder).encode(TEXTS), expected)


def test_a_length_beyond_the_positions_is_reduced(folder):
    edit_json(folder / "sentence_bert_config.json", max_seq_length=100)
    assert read(folder).max_seq_length == 64


@pytest.mark.parametrize(
    ("file", "key"), [("2_Dense/config.json", "from_the_future"), ("sentence_bert_config.json", "model_args")]
)
def test_unknown_keys_are_left_out_with_a_warning(file, key, folder):
    expected = read(folder).encode(TEXTS)
    edit_json(folder / file, **{key: {"attn_implementation": "someone/kernel", "trust_remote_code": True}})
    with pytest.warns(UserWarning, match=rf"{file}: unknown keys \['{key}'\] are ignored"):
        np.testing.assert_array_equal(read(folder).encode(TEXTS), expected)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", "[{", "modules.json is not valid JSON"),
        ("modules.json", '{"path": 1}', "model is damaged: TypeError"),
        ("modules.json", "[{}]", "model is damaged: KeyError"),
        ("modules.json", "[" * 100_000, "modules.json is not valid JSON"),
        ("1_Pooling/config.json", "\xff\xfe", "1_Pooling/config.json is not valid JSON"),
        ("1_Pooling/config.json", '{"word_embedding_dimension": 32, "pooling_mode": "best"}', "pooling_mode must"),
        ("2_Dense/config.json", '{"in_features": 32}', "2_Dense cannot be loaded as Dense"),
        ("2_Dense/config.json", '{"in_features": 30, "out_features": 16}', "2_Dense cannot .*size mismatch"),
        ("2_Dense/config.json", json.dumps({**DENSE, "use_residual": True}), "use_residual is True"),
        (
            "2_Dense/config.json",
            json.dumps({**DENSE, "activation_function": "os.system"}),
            "2_Dense cannot .*os.system",
        ),
        ("2_Dense/config.json", json.dumps({**DENSE, "activation_function": "torch.hub.load"}), "torch.hub.load"),
        ("2_Dense/model.safetensors", "no weights", "2_Dense cannot be loaded as Dense; nothing in it was run"),
        ("sentence_bert_config.json", '{"max_seq_length": "long"}', "model cannot be loaded as Transformer"),
        ("sentence_bert_config.json", '{"transformer_task": "fill-mask"}', "transformer_task is 'fill-mask'"),
        ("sentence_bert_config.json", '{"modality_config": {"text": {"method": "see"}}}', "modality_config is"),
        ("config_sentence_transformers.json", '{"model_type": "SparseEncoder"}', "model_type is 'SparseEncoder'"),
        ("config.json", '{"model_type": "no-such-model"}', "model cannot be loaded as Transformer"),
        ("model.safetensors", "no weights", "model cannot be loaded as Transformer"),
        ("tokenizer.json", "{}", "model cannot be loaded as Transformer"),
    ],
)
def test_a_damaged_file_is_named(file, content, said, folder):
    (folder / file).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"(?s){said}"):
        read(folder)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/config.json"])
def test_a_missing_file_is_named(file, folder):
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=file):
        read(folder)


def test_missing_weights_are_named(folder):
    for file in ("model.safetensors", "pytorch_model.bin"):
        (folder / "2_Dense" / file).unlink()
    with pytest.raises(FileNotFoundError, match=r"2_Dense/pytorch_model.bin"):
        read(folder)


def test_weights_that_do_not_fit_the_architecture_are_not_filled_with_random_numbers(folder):
    edit_json(folder / "config.json", hidden_size=16, intermediate_size=32)
    with pytest.raises(ValueError, match="model cannot be loaded as Transformer"):
        read(folder)


class Bomb:
    """Unpickled without care, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("where", ["2_Dense", "."])
def test_pickled_code_is_never_run(where, folder, tmp_path):
    (folder / where / "model.safetensors").unlink()
    file, bomb = folder / where / "pytorch_model.bin", Bomb(tmp_path / "executed")
    for write in (lambda: torch.save({"linear.weight": bomb}, file), lambda: file.write_bytes(pickle.dumps(bomb))):
        write()
        with pytest.raises(
            ValueError, match=r"cannot be loaded as .*; nothing in it was run: (Weights only load failed|Error)"
        ):
            read(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("path", ["../outside", "/etc", "1_Pooling/../../outside", "..\\outside", "C:x", None, 5])
def test_a_module_path_that_leaves_the_folder_is_refused(path, folder):
    shutil.copytree(folder / "1_Pooling", folder.parent / "outside")
    change_entry(folder, 1, path=path)
    with pytest.raises(ValueError, match=r"modules.json: the path .* leaves the model's folder and is refused"):
        read(folder)


@pytest.mark.parametrize("path", ["../../1_Pooling", "/etc", "", "."])
def test_a_route_that_leaves_its_folder_or_contains_itself_is_refused(path, tiny, tmp_path):
    tiny(modules=[models.Router({"a": [models.Dense(32, 8)]})]).save(tmp_path / "model")
    content = {"types": {path: "sentence_transformers.models.Asym"}, "structure": {"a": [path]}, "parameters": {}}
    (tmp_path / "model" / "2_Asym" / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"2_Asym/config.json: the path .* refused"):
        read(tmp_path / "model")


def change_entry(folder, position, **changes):
    entries = json.loads((folder / "modules.json").read_text())
    entries[position].update(changes)
    (folder / "modules.json").write_text(json.dumps(entries))


def test_blocks_that_we_do_not_have_are_named(folder):
    change_entry(folder, 1, type="sentence_transformers.models.WordWeights")
    with pytest.raises(ValueError, match=r"sbertlab has no block sentence_transformers.models.WordWeights"):
        read(folder)


OUTSIDE = """
from pathlib import Path
import torch
from sbertlab import models

Path(__file__).with_name("executed").touch()


class LSTM(models.Module):  # named like one of ours
    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)))

    def forward(self, features):
        return {**features, "sentence_embedding": self.factor * features["sentence_embedding"]}

    def config(self):
        return {"factor": 2.0}
"""


def test_a_class_from_outside_is_loaded_by_who_trusts_it_alone(tiny, folder, tmp_path, monkeypatch):
    (tmp_path / "somebodys_blocks.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    change_entry(folder, 2, type="somebodys_blocks.LSTM")
    with pytest.raises(ValueError, match=r"'somebodys_blocks.LSTM' .* is not run without trust_remote_code=True"):
        read(folder)
    assert not (tmp_path / "executed").exists()

    import somebodys_blocks

    block = somebodys_blocks.LSTM()
    block.factor.data.fill_(7.0)
    tiny(modules=[block]).save(tmp_path / "mine")
    assert read(tmp_path / "mine", trust_remote_code=True)[2].factor.item() == 7.0


def test_code_beside_the_transformer_is_not_run(folder, tmp_path):
    code = f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n"
    (folder / "modeling_evil.py").write_text(code + "class Evil: pass\nclass EvilConfig: pass\n")
    auto_map = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.EvilConfig"}
    edit_json(folder / "config.json", auto_map=auto_map, model_type="evil")
    with pytest.raises(ValueError, match="trust_remote_code"):
        read(folder)
    assert not (tmp_path / "executed").exists()
