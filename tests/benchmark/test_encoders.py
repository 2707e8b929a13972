import hashlib
import pickle

import numpy as np
import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaConfig,
    DebertaV2Config,
    DistilBertConfig,
    ErnieConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
)

from sbertlab import helpdesk, models
from sbertlab.benchmark import encoders
from sbertlab.benchmark.encoders import (
    ENCODERS,
    LOCAL_ENCODERS,
    OFFLINE_ENCODERS,
    Candidate,
    named,
    parameter_count,
    pretrained,
    select_encoders,
)
from sbertlab.benchmark.published import BASE_MODELS, DATA
from sbertlab.storage.find import PACKAGED, full_name

TEXTS = ["Where is my parcel?", "I want my money back for the broken lamp."]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache of models, and no network."""
    from huggingface_hub import constants

    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    encoders._loaded.cache_clear()
    yield tmp_path
    encoders._loaded.cache_clear()


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BODIES = {
    "mpnet": lambda words: MPNetConfig(vocab_size=words, **SMALL),
    "ernie": lambda words: ErnieConfig(vocab_size=words, **SMALL),
    "deberta-v3": lambda words: DebertaV2Config(vocab_size=words, relative_attention=True, **SMALL),
    "deberta": lambda words: DebertaConfig(vocab_size=words, relative_attention=True, pos_att_type=["c2p"], **SMALL),
    "roberta": lambda words: RobertaConfig(vocab_size=words, **SMALL),
    "t5": lambda words: T5Config(vocab_size=words, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2),
    "distilbert": lambda words: DistilBertConfig(vocab_size=words, dim=32, n_layers=1, n_heads=2, hidden_dim=32),
    "albert": lambda words: AlbertConfig(vocab_size=words, embedding_size=16, **SMALL),
    "": lambda words: BertConfig(vocab_size=words, **SMALL),
}


def write_plain_folder(folder, tokenizer, kind=""):
    """Write what the Hub has of a base model: a body and a tokenizer, nothing of sentence embeddings."""
    torch.manual_seed(0)
    config = BODIES[kind](len(tokenizer))
    body = (T5EncoderModel if config.model_type == "t5" else AutoModel.from_config)(config)
    body.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return body


@pytest.mark.parametrize("name", BASE_MODELS)
def test_a_base_model_by_its_hub_name_gets_mean_pooling_and_no_normalize(name, own_cache, tiny):
    kind = next(key for key in BODIES if key in name.lower())
    body = write_plain_folder(own_cache / "models" / full_name(name).replace("/", "--"), tiny().tokenizer, kind)
    model = ENCODERS[name].make(0)
    assert [type(block) for block in model] == [models.Transformer, models.Pooling]
    texts = ["the cat sits", "a small dog runs in the green garden"]
    inputs = model.tokenizer(texts, padding=True, return_tensors="pt")
    assert inputs["input_ids"].tolist() == tiny().tokenizer(texts, padding=True)["input_ids"]
    with torch.no_grad():
        mask = inputs["attention_mask"]
        vectors = body.to(model.device)(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
    expected = (vectors * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    embeddings = model.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)
    assert (embeddings.norm(dim=1) - 1).abs().min() > 1e-3, "no Normalize"


def test_the_presets_compare_five_six_and_thirteen_models():
    assert OFFLINE_ENCODERS == ("all-MiniLM-L6-v2", "MiniLM-3-layers", "MiniLM-tokens", "MiniLM-random", "TF-IDF+SVD")
    assert (*OFFLINE_ENCODERS, "all-mpnet-base-v2") == LOCAL_ENCODERS
    assert len(set(BASE_MODELS)) == 13
    assert set(ENCODERS) == {*LOCAL_ENCODERS, *BASE_MODELS}
    assert all(set(candidate.learning_rates) <= set(DATA["differences"]) for candidate in ENCODERS.values())
    assert pickle.loads(pickle.dumps(ENCODERS["MiniLM-random"])).random, "as for another process"


def test_each_name_must_be_given_once_and_any_other_is_a_model_to_load():
    encoder = Candidate("mine", len)
    assert select_encoders(["TF-IDF+SVD", encoder]) == [ENCODERS["TF-IDF+SVD"], encoder]
    assert select_encoders(["some/model"])[0].base == "some/model"
    for wrong in ([], [encoder, encoder], ["TF-IDF+SVD", "TF-IDF+SVD"]):
        with pytest.raises(ValueError, match="models must be names of models, each once"):
            select_encoders(wrong)


def test_the_revision_of_a_model_in_the_cache_of_the_hub_is_its_commit(own_cache, tiny):
    repository = own_cache / "hub" / "models--roberta-base"
    commit = "e2da8e2f811d1448a5b465c236feacd80ffbac7b"
    write_plain_folder(repository / "snapshots" / commit, tiny().tokenizer)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert named("roberta-base").revision() == commit


def test_the_revision_of_another_model_is_the_sha256_of_its_weights(tmp_path):
    weights, encoder = tmp_path / "model.safetensors", named(str(tmp_path))
    (tmp_path / "config.json").write_bytes(b"{}")
    seen = []
    for content in (b"one", b"other"):
        weights.write_bytes(content)
        seen.append(encoder.revision())
        assert seen[-1] == hashlib.sha256(content).hexdigest()
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "1_Dense" / "model.safetensors").write_bytes(b"more")
    assert len(encoder.revision()) == 64
    assert encoder.revision() not in seen


def test_other_revisions_are_checksums_of_the_packaged_files_or_empty(own_cache):
    assert named("roberta-base").revision() == "", "before the download"
    assert Candidate("made up", len).revision() == ""
    assert ENCODERS["TF-IDF+SVD"].revision() == hashlib.sha256(helpdesk.CORPUS.read_bytes()).hexdigest()


def test_the_revision_of_the_packaged_model_is_its_pinned_checksum(minilm_folder):
    expected = PACKAGED["sentence-transformers/all-MiniLM-L6-v2"]["files"]["model.safetensors"]
    assert ENCODERS["all-MiniLM-L6-v2"].revision() == expected


def test_the_first_three_layers_equal_the_third_hidden_state_of_the_whole_model(minilm_folder, minilm):
    whole = AutoModel.from_pretrained(minilm_folder, output_hidden_states=True).eval()
    inputs = minilm.tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = inputs["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        vectors = whole(**inputs).hidden_states[3]
    expected = torch.nn.functional.normalize((vectors * mask).sum(1) / mask.sum(1), dim=-1)
    found = encoders.first_layers("all-MiniLM-L6-v2").encode(TEXTS)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_token_embeddings_are_the_mean_of_the_rows_of_the_embedding_matrix(minilm):
    model = encoders.token_embeddings("all-MiniLM-L6-v2")
    matrix = minilm[0].auto_model.get_input_embeddings().weight.detach()
    for text in TEXTS:
        ids = minilm.tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = torch.nn.functional.normalize(matrix[ids].mean(dim=0), dim=0)
        np.testing.assert_allclose(model.encode(text), expected.numpy(), atol=1e-6)


def test_random_weights_follow_from_the_seed_alone(minilm):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (encoders.random_weights("all-MiniLM-L6-v2", seed).encode(TEXTS) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert np.abs(first - minilm.encode(TEXTS)).max() > 0.01


def test_training_one_copy_leaves_the_next_untouched(minilm):
    with torch.no_grad():
        pretrained("all-MiniLM-L6-v2")[0].auto_model.get_input_embeddings().weight.zero_()
    np.testing.assert_allclose(pretrained("all-MiniLM-L6-v2").encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)


def test_tfidf_has_seen_the_training_texts_only(monkeypatch):
    seen = []
    load = helpdesk.load_helpdesk
    monkeypatch.setattr(helpdesk, "load_helpdesk", lambda split=None: (seen.append(split), load(split))[1])
    pipeline = encoders.tfidf_svd()
    assert seen == ["train"]
    assert pipeline.transform(TEXTS).shape == (2, 256)
    assert parameter_count(pipeline) == len(pipeline[0].vocabulary_) * 257, "a weight and 256 coordinates each"


def test_parameters_are_counted_by_hand(tiny):
    words, size, inner, layers, positions = len(tiny().tokenizer), 32, 64, 2, 64
    embeddings = (words + positions + 2) * size + 2 * size
    layer = 4 * (size * size + size) + 2 * (size * inner) + inner + size + 2 * 2 * size
    pooler = size * size + size
    parameters = embeddings + layers * layer + pooler
    assert parameter_count(tiny(modules=[models.Dense(32, 8)])) == parameters + 32 * 8 + 8
    assert parameter_count(object()) is None
