"""Evaluators, against those of sentence-transformers on the same embeddings, scikit-learn, scipy, and by hand."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import util as peer_util
from sentence_transformers.sentence_transformer import evaluation as peer
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import average_precision_score, ndcg_score, v_measure_score
from torch import nn
from torch.utils.data import DataLoader

from sbertlab import evaluation as ours
from sbertlab.data import InputExample
from sbertlab.evaluation.pairs import best_thresholds
from sbertlab.losses import SoftmaxLoss
from sbertlab.util import cos_sim, dot_score, euclidean_sim

SIMILARITIES = ["cosine", "dot", "euclidean", "manhattan"]


class Vectors:
    """A model that knows the vector of each text by heart; equal for ours and the peer's evaluators."""

    similarity_fn_name = "cosine"
    model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *_: None)

    def __init__(self, vectors):
        self.vectors = vectors
        self.calls = []

    def encode(self, sentences, precision=None, normalize_embeddings=False, truncate_dim=None, **arguments):
        self.calls.append(list(sentences))
        rows = np.array([self.vectors[text] for text in sentences], dtype=np.float32)[:, :truncate_dim]
        if normalize_embeddings:
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        if precision not in (None, "float32"):
            rows = peer_util.quantize_embeddings(rows, precision)
        if arguments.get("convert_to_tensor"):
            return torch.from_numpy(rows)
        return rows if arguments.get("convert_to_numpy", True) else list(torch.from_numpy(rows))

    encode_query = encode_document = encode

    def eval(self):
        return self


def texts(prefix, n):
    return [f"{prefix} {i}" for i in range(n)]


def vectors(*columns, seed=0, dim=16, shared=1.0):
    """Random vectors; texts of the same number share a direction, more so the larger `shared` is."""
    random = np.random.default_rng(seed)
    topics = random.standard_normal((1000, dim))
    return Vectors(
        {
            text: random.standard_normal(dim) * random.uniform(0.5, 2) + shared * topics[int(text.split()[-1])]
            for text in itertools.chain.from_iterable(columns)
        }
    )


def assert_equal_to_peer(metrics, theirs, tolerance=1e-6):
    assert theirs
    assert {key: metrics[key] for key in theirs} == pytest.approx(theirs, abs=tolerance)


FIRST, SECOND, THIRD = texts("first", 40), texts("second", 40), texts("third", 40)
GRADES = np.random.default_rng(1).uniform(0, 5, 40).round(1).tolist()
LABELS = [1, 0, 0, 1, 0] * 8


def retrieval_data(repeated=True):
    """20 queries, 60 documents, up to 5 of them relevant to a query; `repeated`: some texts have several ids."""
    random = np.random.default_rng(0)
    queries = {f"q{i}": f"query {i}" for i in range(20)}
    corpus = {f"d{i}": f"document {i % 20 if repeated else i}" for i in range(60)}
    relevant = {query: {f"d{j}" for j in random.choice(60, random.integers(1, 6), replace=False)} for query in queries}
    return queries, corpus, relevant, vectors(list(queries.values()), list(corpus.values()))


CUTOFFS = {
    "mrr_at_k": [5, 10],
    "ndcg_at_k": [3, 10],
    "accuracy_at_k": [1, 4],
    "precision_recall_at_k": [1, 7],
    "map_at_k": [5, 100],
}


def reranking_samples():
    random = np.random.default_rng(0)
    return [
        {
            "query": f"query {i}",
            "positive": [f"good {i} {i}", f"fine {i}"][: random.integers(1, 3)],
            "negative": texts(f"bad {i}", random.integers(1, 15)),
        }
        for i in range(15)
    ]


def reranking_model(samples):
    return vectors(*([sample["query"], *sample["positive"], *sample["negative"]] for sample in samples), shared=0.6)


def peer_cases():
    """Class, examples, options and model of each evaluator that the peer has too."""
    shuffled, models = SECOND[1:] + SECOND[:1], vectors(FIRST, SECOND, THIRD)
    similarities = {"similarity_fn_names": SIMILARITIES}
    *search, search_model = retrieval_data(repeated=False)
    functions = {"cos_sim": cos_sim, "dot_score": dot_score}
    samples = reranking_samples()
    sentences = {f"id{i}": text for i, text in enumerate(FIRST + SECOND + THIRD)}
    duplicates = [(f"id{i}", f"id{i + 40}") for i in range(30)] + [(f"id{i + 40}", f"id{i + 80}") for i in range(20)]
    mining = {"top_k": 3, "max_pairs": 200}
    parallel = [{"en": a, "de": b, "fr": c} for a, b, c in zip(FIRST, SECOND, THIRD, strict=True)]
    parallel[3]["fr"] = " "
    teacher, languages = vectors(FIRST, seed=1), [("en", "de"), ("en", "fr")]
    cases = [
        ("EmbeddingSimilarityEvaluator", (FIRST, SECOND, GRADES), similarities, models),
        ("BinaryClassificationEvaluator", (FIRST, SECOND, LABELS), similarities, models),
        ("InformationRetrievalEvaluator", search, {"score_functions": functions, **CUTOFFS}, search_model),
        ("TranslationEvaluator", (FIRST, SECOND), {}, vectors(FIRST, SECOND, shared=0.7)),
        ("MSEEvaluator", (FIRST, SECOND), {"teacher_model": teacher, "truncate_dim": 9}, models),
        ("MSEEvaluatorFromDataFrame", (parallel, teacher, languages), {}, models),
    ]
    for margin in (None, 0.2, {"cosine": 0.3}):
        options = {"margin": margin, **similarities}
        cases.append(("TripletEvaluator", (FIRST, SECOND, shuffled), options, vectors(FIRST, SECOND, shared=0.5)))
    for yes in (True, False):
        options = {"at_k": 3, "use_batched_encoding": yes}
        cases.append(("RerankingEvaluator", (samples,), options, reranking_model(samples)))
        options = {"add_transitive_closure": yes, **mining}
        cases.append(("ParaphraseMiningEvaluator", (sentences, duplicates), options, models))
    return [pytest.param(*case, id=case[0]) for case in cases]


@pytest.mark.parametrize(("kind", "examples", "options", "model"), peer_cases())
def test_metrics_primary_metric_and_file_equal_those_of_the_peer(kind, examples, options, model):
    evaluator = getattr(ours, kind)(*examples, name="dev", **options)
    theirs = getattr(peer, kind)(*examples, name="dev", **options)
    metrics, expected = evaluator(model), theirs(model)
    best = ["dev_max_accuracy_threshold", "dev_max_f1_threshold"]  # greatest of thresholds on different scales
    expected = {key: value for key, value in expected.items() if key not in best}
    assert_equal_to_peer(metrics, expected, {"MSE": 1e-3, "Bin": 1e-5}.get(kind[:3], 1e-6))
    assert 0 < abs(metrics[evaluator.primary_metric]) < 1 or kind.startswith("MSE")
    assert evaluator.csv_file == theirs.csv_file
    if kind not in ("InformationRetrievalEvaluator", "RerankingEvaluator"):
        assert evaluator.primary_metric == theirs.primary_metric


def test_languages_and_missed_duplicates_are_in_the_table():
    cases = {case.id: case.values for case in peer_cases()}
    _, (rows, *others), _, model = cases["MSEEvaluatorFromDataFrame"]
    evaluator = ours.MSEEvaluatorFromDataFrame(pd.DataFrame(rows), *others)
    assert set(evaluator(model)) == {"negative_mse", "en-de_negative_mse", "en-fr_negative_mse"}
    assert evaluator.per_example.groupby("pair").size().to_dict() == {"en-de": 40, "en-fr": 39}
    _, examples, options, model = cases["ParaphraseMiningEvaluator"]
    evaluator = ours.ParaphraseMiningEvaluator(*examples, **options)
    evaluator(model)
    missed = evaluator.per_example["score"].isna()
    assert evaluator.per_example["label"].sum() == 50
    assert missed.any()
    assert evaluator.per_example[missed]["label"].all()


def test_the_real_model_is_evaluated_as_by_the_peer(minilm, minilm_folder):
    from sentence_transformers import SentenceTransformer

    sentences1 = ["A man plays a guitar.", "The cat sleeps.", "Rain falls on the city.", "She reads a book."]
    sentences2 = ["Someone makes music.", "A cat is asleep.", "The stock market fell.", "He cooks dinner."]
    arguments = (sentences1, sentences2, [4.0, 4.8, 0.2, 1.0])
    metrics = ours.EmbeddingSimilarityEvaluator(*arguments)(minilm)
    theirs = peer.EmbeddingSimilarityEvaluator(*arguments, similarity_fn_names=SIMILARITIES)
    assert_equal_to_peer(metrics, theirs(SentenceTransformer(str(minilm_folder), device="cpu")), 1e-5)


@pytest.mark.slow
def test_the_real_model_reaches_its_known_correlation_on_biosses(minilm, data_dir):
    rows = pd.read_csv(data_dir / "biosses" / "data.csv.gz")
    evaluator = ours.EmbeddingSimilarityEvaluator(
        rows["sentence1"], rows["sentence2"], rows["score"], main_similarity="cosine"
    )
    assert 100 * evaluator(minilm)["spearman_cosine"] == pytest.approx(81.21, abs=0.05)


def test_thresholds_are_the_best_of_all_that_could_be_tried():
    random = np.random.default_rng(0)
    for _ in range(50):
        labels, scores = random.integers(0, 2, 12), random.integers(0, 6, 12) / 4
        if len(set(labels)) < 2:
            continue
        best = best_thresholds(labels, scores)
        accuracies, f1s = [], []
        for cut in np.append(np.unique(scores), 9):
            called = scores >= cut
            right = (called & (labels == 1)).sum()
            accuracies.append((called == labels).mean())
            f1s.append(2 * right / (called.sum() + labels.sum()))
        assert best["accuracy"] == pytest.approx(max(accuracies))
        assert ((scores >= best["accuracy_threshold"]) == labels).mean() == pytest.approx(max(accuracies))
        called = scores >= best["f1_threshold"]
        assert best["f1"] == pytest.approx(max(f1s))
        assert best["precision"] == pytest.approx((called & (labels == 1)).sum() / called.sum())
        assert best["recall"] == pytest.approx((called & (labels == 1)).sum() / labels.sum())


@pytest.mark.parametrize("corpus_chunk_size", [100, 7])
def test_documents_of_equal_score_rank_by_their_id_as_in_the_peer(corpus_chunk_size):
    queries, corpus, relevant, model = retrieval_data()
    model = Vectors({text: vector.round() for text, vector in model.vectors.items()})  # sums are exact
    assert len(set(corpus.values())) < len(corpus)
    arguments = {"score_functions": {"dot_score": dot_score}, "corpus_chunk_size": corpus_chunk_size, **CUTOFFS}
    theirs = peer.InformationRetrievalEvaluator(queries, corpus, relevant, **arguments)
    evaluator = ours.InformationRetrievalEvaluator(queries, dict(reversed(corpus.items())), relevant, **arguments)
    assert_equal_to_peer(evaluator(model), theirs(model))


def test_retrieval_metrics_equal_those_of_scikit_learn_on_the_whole_score_matrix():
    queries, corpus, relevant, model = retrieval_data(repeated=False)
    evaluator = ours.InformationRetrievalEvaluator(queries, corpus, relevant)
    metrics = evaluator(model)
    scores = cos_sim(model.encode(list(queries.values())), model.encode(list(corpus.values()))).numpy()
    truth = np.array([[document in relevant[query] for document in corpus] for query in queries])
    assert metrics["cos_sim_ndcg@10"] == pytest.approx(ndcg_score(truth, scores, k=10))
    precisions = [average_precision_score(row, score) for row, score in zip(truth, scores, strict=True)]
    assert metrics["cos_sim_map@100"] == pytest.approx(np.mean(precisions))
    assert evaluator.per_example["cos_sim_map@100"].tolist() == pytest.approx(precisions)


@pytest.mark.parametrize("corpus_chunk_size", [1, 7, 59])
def test_retrieval_does_not_depend_on_the_chunk_and_never_encodes_more(corpus_chunk_size):
    queries, corpus, relevant, model = retrieval_data(repeated=False)
    expected = ours.InformationRetrievalEvaluator(queries, corpus, relevant)(model)
    model.calls.clear()
    evaluator = ours.InformationRetrievalEvaluator(queries, corpus, relevant, corpus_chunk_size=corpus_chunk_size)
    assert evaluator(model) == pytest.approx(expected)
    assert max(len(call) for call in model.calls[1:]) <= corpus_chunk_size
    assert len(model.calls) == 1 + -(-60 // corpus_chunk_size)


def test_documents_may_have_ids_of_several_types():
    model = Vectors({"q 0": [1, 0], "a 0": [1, 0], "b 0": [0, 1]})
    evaluator = ours.InformationRetrievalEvaluator({1: "q 0"}, {1: "a 0", "b": "b 0"}, {1: {1}})
    assert evaluator(model)["cos_sim_mrr@10"] == 1


def test_queries_and_documents_are_encoded_as_such_with_their_prompts():
    seen = []

    class TwoSided(Vectors):
        def encode_query(self, sentences, **arguments):
            seen.append(("query", arguments.get("prompt"), arguments["batch_size"]))
            return self.encode(sentences, **arguments)

        def encode_document(self, sentences, **arguments):
            seen.append(("document", arguments.get("prompt_name"), arguments["batch_size"]))
            return self.encode(sentences, **arguments)

    queries, corpus, relevant, model = retrieval_data()
    evaluator = ours.InformationRetrievalEvaluator(
        queries, corpus, relevant, query_prompt="find: ", corpus_prompt_name="passage", batch_size=5
    )
    evaluator(TwoSided(model.vectors))
    assert seen == [("query", "find: ", 5), ("document", "passage", 5)]


def test_a_collapsed_model_gains_nothing_from_draws_in_reranking():
    samples = [{"query": "q 0", "positive": ["a 0"], "negative": ["b 0", "c 0", "d 0"]}]
    metrics = ours.RerankingEvaluator(samples)(Vectors({name: [1, 0] for name in ("q 0", "a 0", "b 0", "c 0", "d 0")}))
    assert metrics["map"] == metrics["mrr@10"] == 1 / 4


def test_the_same_translation_in_another_row_is_right_and_wrong_ones_are_printed(capsys):
    model = Vectors({"yes 0": [1, 0], "ja 0": [1, 0], "no 0": [0, 1], "nein 0": [1, 0.2]})
    evaluator = ours.TranslationEvaluator(
        ["yes 0", "yes 0", "no 0"], ["ja 0", "ja 0", "nein 0"], print_wrong_matches=True
    )
    assert evaluator(model)["src2trg_accuracy"] == 1
    assert capsys.readouterr().out == ""
    model.vectors |= {"ja 0": np.array([0.5, 1])}
    evaluator(model)
    assert "found:    ja 0\n  expected: nein 0" in capsys.readouterr().out


def test_label_accuracy_is_the_share_of_right_classes():
    model = Vectors({"a 0": [1, 0], "b 0": [0, 1], "c 0": [1, 1]})
    head = SoftmaxLoss(None, sentence_embedding_dimension=2, num_labels=2)
    with torch.no_grad():  # class 1 where |u - v| is larger than 1
        head.classifier.weight.copy_(torch.tensor([[0.0] * 6, [0, 0, 0, 0, 1, 1]]))
        head.classifier.bias.copy_(torch.tensor([1.5, 0.0]))
    rows = [("a 0", "b 0", 1), ("a 0", "c 0", 0), ("b 0", "c 0", 1)]
    loader = DataLoader([InputExample(texts=[a, b], label=label) for a, b, label in rows], batch_size=2)
    evaluator = ours.LabelAccuracyEvaluator(loader, name="nli", softmax_model=head)
    assert evaluator(model) == {"nli_accuracy": pytest.approx(2 / 3)}
    assert evaluator.per_example["prediction"].tolist() == [1, 0, 0]
    assert evaluator.per_example["text_2"].tolist() == ["b 0", "c 0", "c 0"]
    assert evaluator.csv_file == "accuracy_evaluation_nli_results.csv"


def test_clusters_are_those_of_seeded_mini_batch_k_means():
    names = texts("a", 30) + texts("b", 30)
    labels = [int(name.split()[1]) % 4 for name in names]
    model = vectors(names, shared=0.8)
    evaluator = ours.ClusteringEvaluator(names, labels, seed=7)
    metrics = evaluator(model)
    clusters = MiniBatchKMeans(4, batch_size=2000, random_state=7).fit_predict(model.encode(names))
    assert metrics["v_measure"] == pytest.approx(v_measure_score(labels, clusters))
    assert 0 < metrics["v_measure"] < 1
    assert metrics["v_measure"] == pytest.approx(2 / (1 / metrics["homogeneity"] + 1 / metrics["completeness"]))
    assert evaluator.per_example["cluster"].tolist() == clusters.tolist()
    assert evaluator(model) == metrics


def test_examples_may_be_input_examples():
    pairs = [InputExample(texts=[a, b], label=g) for a, b, g in zip(FIRST, SECOND, GRADES, strict=True)]
    evaluator = ours.EmbeddingSimilarityEvaluator.from_input_examples(pairs, name="dev", batch_size=7)
    assert evaluator.sentences2 == SECOND
    assert evaluator.scores.tolist() == GRADES
    assert evaluator.batch_size == 7
    twos = [InputExample(texts=[a, b], label=c) for a, b, c in zip(FIRST, SECOND, LABELS, strict=True)]
    assert ours.BinaryClassificationEvaluator.from_input_examples(twos).labels.tolist() == LABELS
    threes = [InputExample(texts=list(row)) for row in zip(FIRST, SECOND, THIRD, strict=True)]
    assert ours.TripletEvaluator.from_input_examples(threes).negatives == THIRD
    with pytest.raises(ValueError, match="must have 2 texts each"):
        ours.EmbeddingSimilarityEvaluator.from_input_examples(threes)


def test_evaluators_in_a_row_return_all_metrics_and_the_last_primary_one(tmp_path):
    model = vectors(FIRST, SECOND)
    first = ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES, name="sts")
    second = ours.TranslationEvaluator(FIRST, SECOND, name="en-de")
    evaluator = ours.SequentialEvaluator([first, second])
    metrics = evaluator(model, tmp_path, 2, 30)
    assert metrics == {**first(model), **second(model), "sequential_score": second(model)["en-de_mean_accuracy"]}
    assert metrics == peer.SequentialEvaluator([first, second])(model)
    assert evaluator.primary_metric == "sequential_score"
    assert evaluator.per_example.groupby("evaluator").size().tolist() == [40, 40]
    assert len(list(tmp_path.iterdir())) == 2
    best = ours.SequentialEvaluator([first, second], main_score_function=max)(model)
    assert best["sequential_score"] == max(metrics["sts_spearman_max"], metrics["en-de_mean_accuracy"])


def test_an_evaluator_of_ones_own_may_override_the_call():
    class Own(ours.SentenceEvaluator):
        def __call__(self, model, output_path=None, epoch=-1, steps=-1):
            return 0.5

    assert ours.SequentialEvaluator([Own()])(None) == {"evaluator_0": 0.5, "sequential_score": 0.5}
    with pytest.raises(NotImplementedError, match="SentenceEvaluator must define measure"):
        ours.SentenceEvaluator()(None)


def every_evaluator():
    queries, corpus, relevant, retrieval_model = retrieval_data()
    samples = reranking_samples()
    model = vectors(FIRST, SECOND, THIRD)
    head = nn.Linear(48, 2)
    head.logits = lambda embeddings: head(torch.cat([*embeddings, embeddings[0]], dim=1))
    pairs = [InputExample(texts=[a, b], label=int(c)) for a, b, c in zip(FIRST, SECOND, LABELS, strict=True)]
    numbered, duplicates = dict(enumerate(FIRST + SECOND)), [(0, 40), (1, 41)]
    rows = zip(FIRST, SECOND, strict=True)
    evaluators = [
        ours.EmbeddingSimilarityEvaluator(pd.Series(FIRST, index=range(9, 49)), np.array(SECOND), GRADES, name="a/dev"),
        ours.BinaryClassificationEvaluator(FIRST, SECOND, LABELS, name="dev"),
        ours.TripletEvaluator(FIRST, SECOND, THIRD, name="dev"),
        ours.InformationRetrievalEvaluator(queries, corpus, relevant, name="dev"),
        ours.RerankingEvaluator(samples, name="dev"),
        ours.ParaphraseMiningEvaluator(numbered, duplicates, name="dev"),
        ours.TranslationEvaluator(FIRST, SECOND, name="dev"),
        ours.LabelAccuracyEvaluator(DataLoader(pairs), name="dev", softmax_model=head),
        ours.MSEEvaluator(FIRST, SECOND, teacher_model=model, name="dev"),
        ours.MSEEvaluatorFromDataFrame([{"en": a, "de": b} for a, b in rows], model, [("en", "de")], name="dev"),
        ours.ClusteringEvaluator(FIRST, LABELS, name="dev"),
    ]
    own = {"InformationRetrieval": retrieval_model, "Reranking": reranking_model(samples)}
    named = {type(evaluator).__name__.replace("Evaluator", ""): evaluator for evaluator in evaluators}
    return {kind: (evaluator, own.get(kind, model)) for kind, evaluator in named.items()}


@pytest.mark.parametrize("kind", every_evaluator())
def test_every_evaluator_encodes_a_text_once_and_writes_one_row_per_call(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluator, model = every_evaluator()[kind]
    model.calls.clear()
    metrics = evaluator(model)
    assert model.calls
    assert all(len(set(call)) == len(call) for call in model.calls)
    assert list(tmp_path.iterdir()) == []
    assert evaluator(model, tmp_path / "new" / "eval", epoch=0, steps=100) == metrics
    assert evaluator(model, str(tmp_path / "new" / "eval"), epoch=1) == metrics
    assert metrics[evaluator.primary_metric] == metrics[f"{evaluator.name}_{evaluator.primary_metric.split('_', 1)[1]}"]
    assert all(type(value) is float and np.isfinite(value) for value in metrics.values())
    assert len(evaluator.per_example) > 0
    (path,) = (tmp_path / "new" / "eval").iterdir()
    assert path.name == evaluator.csv_file
    assert "dev" in path.name
    table = pd.read_csv(path)
    assert table[["epoch", "steps"]].to_numpy().tolist() == [[0, 100], [1, -1]]
    assert table.iloc[1, 2:].tolist() == list(metrics.values())


def test_rows_with_new_columns_keep_the_old_rows(tmp_path):
    model = vectors(FIRST, SECOND)
    ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES, similarity_fn_names=["cosine"])(model, tmp_path)
    ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES)(model, tmp_path)
    ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES, write_csv=False)(model, tmp_path)
    table = pd.read_csv(tmp_path / "similarity_evaluation_results.csv")
    assert table["spearman_cosine"].notna().all()
    assert table["spearman_dot"].isna().tolist() == [True, False]


def test_the_metrics_can_be_computed_from_the_examples_that_are_kept():
    for kind, column in (("InformationRetrieval", "cos_sim_map@100"), ("Reranking", "map"), ("MSE", "negative_mse")):
        evaluator, model = every_evaluator()[kind]
        assert evaluator(model)[f"dev_{column}"] == pytest.approx(evaluator.per_example[column].mean())
    evaluator, model = every_evaluator()["BinaryClassification"]
    metrics, table = evaluator(model), evaluator.per_example
    assert metrics["dev_euclidean_ap"] == pytest.approx(average_precision_score(table["label"], table["euclidean"]))
    evaluator = ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES)
    metrics, table = evaluator(model), evaluator.per_example
    assert metrics["spearman_dot"] == pytest.approx(spearmanr(table["score"], table["dot"]).statistic)


def test_a_model_that_finds_all_pairs_alike_gains_nothing(recwarn):
    model = Vectors({text: np.ones(4) for text in FIRST + SECOND + THIRD})
    assert set(ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES)(model).values()) == {0.0}
    assert ours.TripletEvaluator(FIRST, SECOND, THIRD)(model)["max_accuracy"] == 0
    assert not recwarn.list


def test_options_decide_the_primary_metric_and_the_dimensions():
    model = vectors(FIRST, SECOND, THIRD)
    for main in ("manhattan", ours.SimilarityFunction.MANHATTAN):
        evaluator = ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES, main_similarity=main)
        assert evaluator.primary_metric == "spearman_manhattan"
    evaluator = ours.TripletEvaluator(FIRST, SECOND, THIRD, main_distance_function=ours.SimilarityFunction.DOT_PRODUCT)
    assert evaluator.primary_metric == "dot_accuracy"
    assert evaluator.similarity_fn_names == ["cosine", "euclidean", "manhattan", "dot"]
    queries, corpus, relevant, _ = retrieval_data()
    evaluator = ours.InformationRetrievalEvaluator(queries, corpus, relevant, score_functions={"near": euclidean_sim})
    assert evaluator.primary_metric == "near_map@100"
    main = ours.SimilarityFunction.DOT_PRODUCT
    evaluator = ours.InformationRetrievalEvaluator(queries, corpus, relevant, main_score_function=main)
    assert evaluator.primary_metric == "dot_score_map@100"
    evaluator = ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES, truncate_dim=5)
    short = Vectors({text: vector[:5] for text, vector in model.vectors.items()})
    assert evaluator(model) == ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES)(short)


def test_queries_without_relevant_documents_and_samples_without_negatives_are_left_out():
    queries, corpus, relevant, _ = retrieval_data()
    lonely, nothing = {**queries, "lonely": "query 999"}, {**relevant, "lonely": []}
    assert ours.InformationRetrievalEvaluator(lonely, corpus, nothing).queries_ids == list(queries)
    samples = [
        {"query": "query 0", "positive": "fine 0", "negative": "bad 0 0"},
        {"query": "query 1", "positive": ["fine 1"], "negative": []},
    ]
    evaluator = ours.RerankingEvaluator(dict(enumerate(samples)), mrr_at_k=5)
    assert evaluator.at_k == 5
    assert evaluator.samples == [{"query": "query 0", "positive": ["fine 0"], "negative": ["bad 0 0"]}]


def test_duplicates_of_unknown_texts_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="1 of 3 duplicate pairs"):
        evaluator = ours.ParaphraseMiningEvaluator({1: "a 1", 2: "b 1"}, [(2, 1), (1, 7)], {1: {2: True}})
    assert evaluator.duplicates == {(0, 1)}


def test_equal_keys_of_evaluators_in_a_row_do_not_overwrite_each_other():
    model = vectors(FIRST, SECOND, THIRD)
    evaluators = [ours.TranslationEvaluator(FIRST, SECOND), ours.TranslationEvaluator(FIRST, THIRD[::-1])]
    metrics = ours.SequentialEvaluator(evaluators)(model)
    assert metrics["mean_accuracy"] == evaluators[0](model)["mean_accuracy"]
    assert metrics["evaluator_1_mean_accuracy"] == evaluators[1](model)["mean_accuracy"] == metrics["sequential_score"]


PAIR = (["a 0", "b 0"], ["c 0", "d 0"])
LANGUAGES = [{"en": "a", "de": " "}], vectors(["a 0"])
SEARCH = ({"q": "a 0"}, {"d": "b 0"}, {"q": {"d"}})


@pytest.mark.parametrize(
    ("kind", "arguments", "keywords", "message"),
    [
        ("EmbeddingSimilarity", (["a"], ["b", "c"], [1]), {}, "sentences1 has 1, sentences2 has 2"),
        ("EmbeddingSimilarity", (*PAIR, [1, 2, 3]), {}, "scores"),
        ("EmbeddingSimilarity", (*PAIR, [3, 3]), {}, "scores are all 3"),
        ("EmbeddingSimilarity", (["a", None], ["b", "c"], [1, 2]), {}, r"sentences1\[1\]"),
        ("EmbeddingSimilarity", (*PAIR, [1, 2]), {"main_similarity": "cosin"}, "cosin"),
        ("EmbeddingSimilarity", (*PAIR, [1, 2]), {"similarity_fn_names": "cosine"}, "must be a list of names"),
        ("Triplet", (*PAIR, PAIR[0]), {"main_similarity_function": "dot", "similarity_fn_names": ["cosine"]}, "'dot'"),
        ("BinaryClassification", (*PAIR, [0.2, 0.9]), {}, r"got the values \[0.2, 0.9\]"),
        ("Triplet", (*PAIR, ["e", "f"]), {"margin": -1}, "margin of cosine must be"),
        ("InformationRetrieval", (["a 0"], *SEARCH[1:]), {}, "must be dicts from id to text"),
        ("InformationRetrieval", (*SEARCH[:2], {"q": {"d", "x"}}), {}, "unknown ids, such as 'x'"),
        ("InformationRetrieval", (*SEARCH[:2], {"q": {"d"}, "p": {"d"}}), {}, "unknown ids, such as 'p'"),
        ("InformationRetrieval", (*SEARCH[:2], {"q": "d"}), {}, r"relevant_docs\['q'\] must be a set"),
        ("InformationRetrieval", (*SEARCH[:2], {"q": set()}), {}, "no relevant document for any query"),
        ("InformationRetrieval", SEARCH, {"map_at_k": [0]}, "map_at_k must be"),
        ("InformationRetrieval", SEARCH, {"main_score_function": "cosine"}, "main_score_function must be one of"),
        ("Reranking", ([{"query": "q"}],), {}, r"samples\[0\] must be a dict"),
        ("Reranking", ([{"query": "q", "positive": [], "negative": ["n"]}],), {}, "nothing to rank"),
        ("Reranking", ([],), {"at_k": 0}, "at_k must be"),
        ("ParaphraseMining", ({1: "a", 2: "b"}, [(1, 1)]), {}, "duplicate pair of two different ids"),
        ("LabelAccuracy", (None,), {}, "softmax_model must be the SoftmaxLoss"),
        ("MSE", PAIR, {}, "teacher_model is missing"),
        ("MSEEvaluatorFromDataFrame", (*LANGUAGES, [("en", "de")]), {}, "source_sentences"),
        ("Clustering", (["a", "b"], [1, 1]), {}, "at least two classes, got only 1"),
        ("Sequential", ([None],), {}, "at least one"),
    ],
)
def test_bad_input_is_refused_before_anything_is_encoded(kind, arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        getattr(ours, kind if kind.startswith("MSEE") else f"{kind}Evaluator")(*arguments, **keywords)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ours.MSEEvaluator(FIRST, FIRST, teacher_model=vectors(FIRST, dim=8)),
            "have 16 dimensions, the teacher's 8",
        ),
        (lambda: label_accuracy([InputExample(texts=["a 0", "b 0"], label=0.5)]), "whole number as label"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_when_called(make, message):
    with pytest.raises(ValueError, match=message):
        make()(vectors(FIRST, ["a 0", "b 0"]))
    with pytest.raises(TypeError, match=r"the model itself: SentenceTransformer\('a-name'\)"):
        make()("a-name")


def label_accuracy(examples):
    head = SimpleNamespace(logits=lambda embeddings: embeddings[0])
    return ours.LabelAccuracyEvaluator(DataLoader(examples), softmax_model=head)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda texts: np.full((len(texts), 3), np.nan), "80 texts has NaN"),
        (lambda texts: np.zeros((1, 3)), r"shape \(1, 3\) for 80 texts"),
        (lambda texts: "nothing", "must be rows of numbers"),
    ],
)
def test_embeddings_of_the_wrong_shape_or_not_finite_are_refused(output, message):
    model = SimpleNamespace(encode=lambda texts, **_: output(texts))
    with pytest.raises(ValueError, match=message):
        ours.EmbeddingSimilarityEvaluator(FIRST, SECOND, GRADES)(model)
