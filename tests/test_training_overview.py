"""The code that the SBERT Training Overview teaches, step by step, with our import and the packaged model's name."""

import csv
import warnings
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch, minilm_folder):
    """Run in an empty folder, with the model already fetched, and the expected warnings silenced."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="warmup_steps")
        yield


def test_a_network_from_its_layers():
    from sbertlab import SentenceTransformer, models

    word_embedding_model = models.Transformer(MODEL, max_seq_length=256)
    pooling_model = models.Pooling(word_embedding_model.get_word_embedding_dimension())

    model = SentenceTransformer(modules=[word_embedding_model, pooling_model])

    assert model.encode("a text").shape == (384,)
    assert model.max_seq_length == 256


def test_a_network_with_a_dense_layer_on_top():
    from torch import nn

    from sbertlab import SentenceTransformer, models

    word_embedding_model = models.Transformer(MODEL, max_seq_length=256)
    pooling_model = models.Pooling(word_embedding_model.get_word_embedding_dimension())
    dense_model = models.Dense(
        in_features=pooling_model.get_sentence_embedding_dimension(), out_features=256, activation_function=nn.Tanh()
    )

    model = SentenceTransformer(modules=[word_embedding_model, pooling_model, dense_model])

    embedding = model.encode("a text")
    assert embedding.shape == (256,)
    assert np.abs(embedding).max() <= 1


def test_training_with_the_cosine_similarity_loss_and_an_evaluator():
    from torch.utils.data import DataLoader

    from sbertlab import InputExample, SentenceTransformer, evaluation, losses

    model = SentenceTransformer(MODEL)
    train_examples = [
        InputExample(texts=["A hen crosses the yard", "A chicken walks outside"], label=0.8),
        InputExample(texts=["The invoice is late", "Snow fell all night"], label=0.3),
    ]
    train_dataloader = DataLoader(train_examples, shuffle=True, batch_size=16)
    train_loss = losses.CosineSimilarityLoss(model)

    model.fit(train_objectives=[(train_dataloader, train_loss)], epochs=1, warmup_steps=100)

    sentences1 = ["The first of three", "Some words of yours", "What the model is to be judged by"]
    sentences2 = ["The other side", "Row i is compared with row i", "By the cosine of the two"]
    scores = [0.3, 0.6, 0.2]
    evaluator = evaluation.EmbeddingSimilarityEvaluator(sentences1, sentences2, scores)

    history = model.fit(
        train_objectives=[(train_dataloader, train_loss)],
        epochs=1,
        warmup_steps=100,
        evaluator=evaluator,
        evaluation_steps=500,
    )
    assert -1 <= history["metric"].iloc[-1] <= 1


def test_continuing_to_train_on_other_data_and_loading_from_a_path():
    from torch.utils.data import DataLoader

    from sbertlab import InputExample, SentenceTransformer, losses
    from sbertlab.data import STSBenchmarkDataReader
    from sbertlab.evaluation import EmbeddingSimilarityEvaluator

    rows = [("g", "f", "y", str(i), f"{score:.1f}", a, b) for i, (a, b, score) in enumerate(DEV)]
    with open("sts-dev.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE).writerows(rows)
    sts_reader = STSBenchmarkDataReader(".")
    train_samples = [InputExample(texts=[a, b], label=score / 5) for a, b, score in DEV]
    train_batch_size, num_epochs, warmup_steps, model_save_path = 2, 1, 1, "my/path/to/model"

    model = SentenceTransformer(MODEL)

    train_dataloader = DataLoader(train_samples, shuffle=True, batch_size=train_batch_size)
    train_loss = losses.CosineSimilarityLoss(model=model)

    evaluator = EmbeddingSimilarityEvaluator.from_input_examples(sts_reader.get_examples("sts-dev.csv"))

    model.fit(
        train_objectives=[(train_dataloader, train_loss)],
        evaluator=evaluator,
        epochs=num_epochs,
        evaluation_steps=1000,
        warmup_steps=warmup_steps,
        output_path=model_save_path,
    )

    model = SentenceTransformer("./my/path/to/model/")
    assert model.encode(["a text"]).shape == (1, 384)


DEV = [("a cat sleeps", "a cat is asleep", 4.8), ("a man runs", "a woman sings", 1.0), ("it rains", "rain falls", 4.5)]


def test_a_model_hosted_on_a_server_as_a_zip(minilm_folder, tmp_path, monkeypatch):
    from sbertlab import SentenceTransformer

    with zipfile.ZipFile("my_model.zip", "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(minilm_folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(minilm_folder))
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path / "cache"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        model = SentenceTransformer(f"http://127.0.0.1:{server.server_port}/my_model.zip")
        server.shutdown()
    assert model.encode("a text").shape == (384,)


def test_multitask_training_with_two_losses():
    from torch.utils.data import DataLoader

    from sbertlab import InputExample, SentenceTransformer, losses

    model = SentenceTransformer(MODEL)
    scored = DataLoader(
        [InputExample(texts=[a, b], label=score / 5) for a, b, score in DEV], shuffle=True, batch_size=2
    )
    pairs = DataLoader([InputExample(texts=[a, b]) for a, b, _ in DEV], shuffle=True, batch_size=3)

    history = model.fit(
        train_objectives=[
            (scored, losses.CosineSimilarityLoss(model)),
            (pairs, losses.MultipleNegativesRankingLoss(model)),
        ],
        epochs=1,
        warmup_steps=1,
    )
    assert history["objective"].nunique() == 2


def test_special_tokens_for_a_new_network():
    from sbertlab import SentenceTransformer, models

    word_embedding_model = models.Transformer(MODEL)

    tokens = ["[DOC]", "[QRY]"]
    word_embedding_model.tokenizer.add_tokens(tokens, special_tokens=True)
    word_embedding_model.auto_model.resize_token_embeddings(len(word_embedding_model.tokenizer))

    pooling_model = models.Pooling(word_embedding_model.get_word_embedding_dimension())
    model = SentenceTransformer(modules=[word_embedding_model, pooling_model])

    assert np.isfinite(model.encode("[QRY] where is my parcel")).all()


def test_special_tokens_for_an_existing_model_without_the_line_that_the_document_lacks():
    from sbertlab import SentenceTransformer

    model = SentenceTransformer(MODEL)
    word_embedding_model = model._first_module()

    tokens = ["[DOC]", "[QRY]"]
    word_embedding_model.tokenizer.add_tokens(tokens, special_tokens=True)

    with pytest.warns(UserWarning, match="2 tokens were added"):
        assert np.isfinite(model.encode("[DOC] a parcel goes to the neighbour")).all()
    assert word_embedding_model.auto_model.get_input_embeddings().num_embeddings == len(model.tokenizer)
