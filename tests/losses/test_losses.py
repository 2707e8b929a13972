"""Losses and their gradients against sentence-transformers."""

import inspect
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer as PeerTransformer
from sentence_transformers.sentence_transformer import losses as peer
from sentence_transformers.sentence_transformer import modules as peer_modules
from torch import nn
from transformers import BertTokenizerFast

from sbertlab import losses
from sbertlab.losses import BatchHardTripletLossDistanceFunction as BatchDistance
from sbertlab.util import dot_score
from tests.losses import formulas as slow
from tests.losses.formulas import DIM, assert_finite, assert_same, value_and_gradients

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BATCH = 9


class Leaves(nn.Module):
    """A model for the peer's losses, whose forward pass hands out given tensors."""

    device, max_seq_length = torch.device("cpu"), 8

    def __init__(self, key="leaf"):
        super().__init__()
        self.key = key
        self.tokenizer = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4})

    def __getitem__(self, index):
        return self

    def get_embedding_dimension(self):
        return DIM

    def forward(self, features):
        return {"sentence_embedding": features[self.key]}


@dataclass
class Case:
    """A loss by its name here and in sentence-transformers, rows that it takes, and its settings."""

    loss: str
    columns: int
    labels: str = "none"
    settings: dict[str, Any] = field(default_factory=dict)
    only_there: dict[str, Any] = field(default_factory=dict)

    def ours(self):
        return getattr(losses, self.loss)(**named(losses, self.settings))

    def theirs(self, model):
        return getattr(peer, self.loss)(model, **named(peer, self.settings), **self.only_there)

    def __str__(self):
        settings = {key: getattr(value, "__name__", value) for key, value in self.settings.items()}
        return f"{self.loss}-{self.columns}-{self.labels}-{settings or 'default'}"


def named(module, settings):
    """Settings whose values such as "Metric.COSINE" are looked up in a module."""
    return {k: attrgetter(value)(module) if isinstance(value, str) else value for k, value in settings.items()}


TEMPERATURES = {"student_temperature": 2.0, "teacher_temperature": 0.5}
BATCH_COSINE = {"distance_metric": "BatchHardTripletLossDistanceFunction.cosine_distance", "margin": 0.2}
CASES = [
    Case("CosineSimilarityLoss", 2, "float"),
    Case("CoSENTLoss", 2, "float"),
    Case("CoSENTLoss", 2, "binary", {"scale": 3.0}),
    Case("AnglELoss", 2, "float"),
    Case("ContrastiveLoss", 2, "binary"),
    Case("ContrastiveLoss", 2, "binary", {"distance_metric": "SiameseDistanceMetric.EUCLIDEAN", "margin": 6}),
    Case("ContrastiveLoss", 2, "binary", {"distance_metric": "SiameseDistanceMetric.MANHATTAN", "margin": 6}),
    Case("OnlineContrastiveLoss", 2, "binary"),
    Case("TripletLoss", 3),
    Case("TripletLoss", 3, "none", {"distance_metric": "TripletDistanceMetric.COSINE", "triplet_margin": 1}),
    Case("MultipleNegativesRankingLoss", 2),
    Case("MultipleNegativesRankingLoss", 4),
    Case("MultipleNegativesRankingLoss", 3, "none", {"scale": 0.5, "similarity_fct": dot_score}),
    Case("MultipleNegativesSymmetricRankingLoss", 2),
    Case("MultipleNegativesSymmetricRankingLoss", 4),
    Case("MegaBatchMarginLoss", 2, only_there={"use_mini_batched_version": False}),
    Case("MSELoss", 1, "vector"),
    Case("MSELoss", 3, "vector"),
    Case("MSELoss", 2, "vectors"),
    Case("MarginMSELoss", 3, "float"),
    Case("MarginMSELoss", 5, "3 scores"),
    Case("MarginMSELoss", 5, "4 scores"),
    Case("DistillKLDivLoss", 4, "3 scores"),
    Case("DistillKLDivLoss", 3, "2 scores", TEMPERATURES),
    Case("BatchHardTripletLoss", 1, "int"),
    Case("BatchHardTripletLoss", 1, "int", BATCH_COSINE),
    Case("BatchHardSoftMarginTripletLoss", 1, "int"),
    Case("BatchSemiHardTripletLoss", 1, "int"),
    Case("BatchAllTripletLoss", 1, "int"),
    Case("BatchAllTripletLoss", 1, "int", {"margin": 0.1}),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def random_batch(columns, labels="none", seed=0):
    generator = torch.Generator().manual_seed(seed)
    texts = [torch.randn(BATCH, DIM, generator=generator) for _ in range(columns)]
    for column in texts[1:]:  # related to the first column, so that similarities differ widely
        column.add_(texts[0], alpha=0.7)
    if labels == "none":
        return texts, None
    if labels == "float":
        return texts, torch.rand(BATCH, generator=generator)
    if labels == "binary":
        return texts, torch.tensor([1, 0, 1, 0, 0, 1, 1, 0, 1])
    if labels == "int":
        return texts, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 7])  # class 7 has a single text
    shape = {"vector": (BATCH, DIM), "vectors": (BATCH, columns, DIM)}.get(labels) or (BATCH, int(labels[0]))
    return texts, torch.randn(shape, generator=generator)


def run_peer(loss, labels):
    return lambda leaves: loss([{"leaf": leaf} for leaf in leaves], labels)


@every_case
def test_a_loss_and_its_gradients_equal_those_of_sentence_transformers(case):
    for seed in range(3):
        columns, labels = random_batch(case.columns, case.labels, seed)
        case.ours().check_batch([[f"text {row}" for row in range(BATCH)]] * case.columns, labels)
        theirs = value_and_gradients(run_peer(case.theirs(Leaves()), labels), columns)
        assert_same(value_and_gradients(lambda leaves, y=labels: case.ours().compute(leaves, y), columns), theirs)


@every_case
def test_repeated_texts_collapsed_models_and_single_rows_give_finite_gradients(case):
    columns, labels = random_batch(case.columns, case.labels)
    run = lambda leaves, y=labels: case.ours().compute(leaves, y)  # noqa: E731
    for fill in (0.0, 1.0):
        assert_finite(value_and_gradients(run, [torch.full_like(column, fill) for column in columns]))
    first = None if labels is None else labels[:1]
    assert_finite(value_and_gradients(lambda leaves: run(leaves, first), [column[:1] for column in columns]))
    for column in columns:
        column[3], column[5] = column[0], column[4]  # equal rows: of one class and of two
    if len(columns) > 1:
        columns[1][2] = columns[0][2]  # equal columns
    assert_finite(value_and_gradients(run, columns))


@every_case
def test_losses_are_computed_in_float32_under_autocast(case):
    columns, labels = random_batch(case.columns, case.labels)
    halves, loss = [column.bfloat16() for column in columns], case.ours()
    wanted = loss.compute([column.float() for column in halves], labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss.compute(halves, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, wanted)


@pytest.mark.parametrize("classes", [[4] * BATCH, list(range(BATCH))], ids=["one class", "no class twice"])
@pytest.mark.parametrize("kind", ["Hard", "HardSoftMargin", "SemiHard", "All"])
def test_a_batch_without_a_triplet_costs_nothing(kind, classes):
    loss = getattr(losses, f"Batch{kind}TripletLoss")()
    value, gradients = value_and_gradients(lambda c: loss.compute(c, torch.tensor(classes)), random_batch(1)[0])
    assert value == 0
    assert gradients[0].abs().max() == 0


@pytest.mark.parametrize("label", [0, 1])
def test_online_contrastive_loss_of_one_label_equals_the_peers(label):
    columns, labels = random_batch(2)[0], torch.full((BATCH,), label)
    columns[1] = columns[0] + 0.4 * columns[1]  # near enough for the margin
    theirs = value_and_gradients(run_peer(peer.OnlineContrastiveLoss(Leaves()), labels), columns)
    assert_same(value_and_gradients(lambda c: losses.OnlineContrastiveLoss().compute(c, labels), columns), theirs)


def test_cosent_with_equal_labels_is_zero_and_has_a_graph():
    run = lambda leaves: losses.CoSENTLoss().compute(leaves, torch.ones(BATCH))  # noqa: E731
    value, gradients = value_and_gradients(run, random_batch(2)[0])
    assert value == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients)


def test_euclidean_batch_distances_keep_the_digits_of_near_rows():
    texts = 100 + torch.tensor([[0.0], [1e-3]], dtype=torch.float32)
    assert BatchDistance.euclidean_distance(texts)[0, 1] == texts[1, 0] - texts[0, 0]
    assert BatchDistance.eucledian_distance(texts, squared=True)[0, 1] == (texts[1, 0] - texts[0, 0]) ** 2


FLAGS = [
    {},
    {"concatenation_sent_multiplication": True},
    {"concatenation_sent_rep": False},
    {"concatenation_sent_difference": False},
]


@pytest.mark.parametrize("flags", FLAGS)
def test_softmax_loss_and_its_classifier_learn_as_in_the_peer(flags):
    ours, theirs = losses.SoftmaxLoss(None, DIM, 3, **flags), peer.SoftmaxLoss(Leaves(), DIM, 3, **flags)
    theirs.classifier.load_state_dict(ours.classifier.state_dict())
    columns, labels = random_batch(2)[0], torch.tensor([0, 1, 2, 2, 1, 0, 0, 0, 1])
    result = value_and_gradients(lambda leaves: ours.compute(leaves, labels), columns)
    assert_same(result, value_and_gradients(run_peer(theirs, labels), columns))
    gradient = theirs.classifier.weight.grad
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(ours.classifier.weight.grad, gradient, rtol=1e-5, atol=1e-5)


def test_contrastive_tension_and_its_scale_learn_as_in_the_peer():
    columns, ours = random_batch(2)[0], losses.ContrastiveTensionLossInBatchNegatives()
    theirs = peer.ContrastiveTensionLossInBatchNegatives(Leaves())
    theirs.model1, theirs.model2 = Leaves("first"), Leaves("second")
    run = lambda leaves: theirs([{"first": leaves[0], "second": leaves[1]}], None)  # noqa: E731
    assert_same(value_and_gradients(ours.compute, columns), value_and_gradients(run, columns))
    assert ours.logit_scale.grad.abs() > 1e-4
    torch.testing.assert_close(ours.logit_scale.grad, theirs.logit_scale.grad, rtol=1e-5, atol=1e-5)


def fake_guide():
    guide = Leaves("guide")
    guide.encode = None
    return guide


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"margin": 0.3, "temperature": 0.1},
        {"margin": 0.2, "margin_strategy": "relative", "temperature": 0.1},
        {"contrast_anchors": False, "contrast_positives": False, "temperature": 0.1},
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_gist_and_its_gradients_equal_those_of_the_peer(settings, count):
    columns, guide = random_batch(count)[0], torch.stack(random_batch(count, seed=3)[0])
    ours = losses.GISTEmbedLoss(None, nn.Identity(), **settings)
    theirs = peer.GISTEmbedLoss(Leaves(), fake_guide(), **settings)
    result = value_and_gradients(lambda leaves: ours.compute(leaves, guide), columns)
    pairs = lambda leaves: [{"leaf": leaf, "guide": column} for leaf, column in zip(leaves, guide, strict=True)]  # noqa: E731
    assert_same(result, value_and_gradients(lambda leaves: theirs(pairs(leaves), None), columns))


def test_gist_never_lets_a_text_compete_with_itself():
    columns, same = random_batch(2)[0], torch.eye(BATCH)  # to the guide all anchors equal their positives
    value = losses.GISTEmbedLoss(None, nn.Identity(), temperature=0.1).compute(columns, torch.stack([same, same]))
    wanted = slow.gist(temperature=0.1)([column.double() for column in columns], torch.stack([same, same]).double())
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=1e-5)


def test_gist_embeds_the_texts_with_the_guide_and_neither_trains_nor_keeps_it(tiny):
    model, guide = tiny(), tiny(seed=5, dropout=0.5)
    loss = losses.GISTEmbedLoss(model, guide).train()
    columns = [["the cat sits", "a red apple"], ["a small cat", "the apple is good"]]
    made = loss.prepare(columns, None)
    assert made.shape == (2, 2, 32)
    assert not made.requires_grad
    torch.testing.assert_close(made[1, 0], guide.encode("a small cat", convert_to_tensor=True), rtol=1e-5, atol=1e-6)
    assert {id(parameter) for parameter in loss.parameters()} == {id(parameter) for parameter in model.parameters()}
    features = [model.tokenize(column) for column in columns]
    embeddings = [model(dict(column))["sentence_embedding"] for column in features]
    torch.testing.assert_close(loss(features), loss.compute(embeddings, made), rtol=1e-5, atol=1e-5)


def cut(columns, dim):
    return [column[:, :dim] / column[:, :dim].norm(dim=1, keepdim=True) for column in columns]


@every_case
def test_matryoshka_of_any_loss_equals_the_peers(case):
    columns, labels = random_batch(case.columns, case.labels, seed=2)
    dims, weights = [2, DIM, 4], [0.5, 1.0, 2.0]
    ours, model = losses.MatryoshkaLoss(None, case.ours(), dims, weights), Leaves()
    result = value_and_gradients(lambda leaves: ours.compute(leaves, labels), columns)
    theirs = peer.MatryoshkaLoss(model, case.theirs(model), dims, weights)
    assert_same(result, value_and_gradients(run_peer(theirs, labels), columns))


def test_matryoshka_shares_the_classifier_of_softmax_loss_between_dimensions():
    columns, labels = random_batch(2)[0], torch.tensor([0, 1, 2] * 3)
    inner = losses.SoftmaxLoss(None, DIM, 3)
    value = losses.MatryoshkaLoss(None, inner, [2, DIM]).compute(columns, labels)
    short = [nn.functional.pad(column, (0, DIM - 2)) for column in cut(columns, 2)]
    torch.testing.assert_close(value, inner.compute(cut(columns, DIM), labels) + inner.compute(short, labels))


def test_matryoshka_draws_some_dimensions_per_step_by_torchs_seed():
    columns, labels = random_batch(2, "float")
    parts = {dim: losses.CosineSimilarityLoss().compute(cut(columns, dim), labels).item() for dim in (1, 3, DIM)}
    loss = losses.MatryoshkaLoss(None, losses.CosineSimilarityLoss(), [1, 3, DIM], n_dims_per_step=1)

    def draw(seed):
        torch.manual_seed(seed)
        return loss.compute(columns, labels).item()

    values = [draw(seed) for seed in range(12)]
    assert values == [draw(seed) for seed in range(12)]
    assert {round(value, 5) for value in values} == {round(value, 5) for value in parts.values()}


def test_matryoshka_passes_on_what_the_inner_loss_needs(tiny):
    model, texts = tiny(pooling="cls"), [["the cat", "a dog"], ["a cat", "the dog"]]
    features = [model.tokenize(column) for column in texts]
    embeddings = [model(dict(column))["sentence_embedding"] for column in features]
    for inner, seen in (
        (losses.GISTEmbedLoss(model, tiny(seed=5)), embeddings),
        (losses.DenoisingAutoEncoderLoss(model).eval(), embeddings[:1]),
    ):
        loss, made = losses.MatryoshkaLoss(model, inner, [32, 8]).eval(), inner.prepare(texts, None)
        wanted = inner.compute(cut(seen, 32), made) + inner.compute(cut(seen, 8), made)
        torch.testing.assert_close(loss.compute(seen, loss.prepare(texts, None)), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loss(features), wanted, rtol=1e-5, atol=1e-5)
        with pytest.raises(ValueError, match=r"MatryoshkaLoss takes 2 .*text"):
            loss.check_batch([["a"]], None)


DAMAGED = ["the cat", "red and", "a book on the table in the garden"]
WHOLE = ["the cat sits in the garden", "red and green apple", "a book and a lamp on the table in the garden"]


def test_tsdae_and_the_gradients_of_shared_weights_equal_the_peers(tiny, tmp_path):
    model = tiny(pooling="cls")
    model[0].auto_model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    word = peer_modules.Transformer(str(tmp_path))
    other = PeerTransformer(modules=[word, peer_modules.Pooling(32, "cls")], device="cpu")
    ours, theirs = losses.DenoisingAutoEncoderLoss(model), peer.DenoisingAutoEncoderLoss(other)
    theirs.decoder.load_state_dict(ours.decoder.state_dict())
    features = [model.tokenize(column) for column in (DAMAGED, [*WHOLE[:2], "a zebra"])]  # letters that decoding loses
    mine = ours.eval()(features)
    mine.backward()
    value = theirs.eval()([{k: v.clone() for k, v in column.items()} for column in features], None)
    value.backward()
    torch.testing.assert_close(mine, value, rtol=1e-5, atol=1e-5)
    expected = dict(theirs.decoder.named_parameters())
    compared = 0
    for name, parameter in ours.decoder.named_parameters():
        if expected[name].grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-5, msg=name)
            compared += bool(parameter.grad.abs().max() > 1e-6)
    assert compared > 40


def test_the_tsdae_decoder_shares_the_encoders_parameters_and_copies_none(tiny):
    model = tiny()
    loss = losses.DenoisingAutoEncoderLoss(model, decoder_name_or_path="ignored-as-in-the-field")
    encoder, decoder = model[0].auto_model, loss.decoder
    assert decoder.get_output_embeddings().weight is encoder.embeddings.word_embeddings.weight
    inner, outer = dict(encoder.named_parameters()), dict(decoder.base_model.named_parameters())
    assert all(outer[name] is parameter for name, parameter in inner.items() if "pooler" not in name)
    assert not encoder.config.is_decoder


def test_tsdae_with_an_untied_decoder_uses_that_decoders_weights_and_tokenizer(tiny, tmp_path):
    source, model = tiny(seed=9), tiny()
    source[0].auto_model.save_pretrained(tmp_path)
    source.tokenizer.save_pretrained(tmp_path)
    loss = losses.DenoisingAutoEncoderLoss(model, str(tmp_path), tie_encoder_decoder=False)
    encoder = {id(parameter) for parameter in model.parameters()}
    assert not any(id(parameter) in encoder for parameter in loss.decoder.parameters())
    weight = loss.decoder.base_model.embeddings.word_embeddings.weight
    assert torch.equal(weight, source[0].auto_model.embeddings.word_embeddings.weight)
    assert torch.equal(loss.prepare([DAMAGED, WHOLE], None), model.tokenize(WHOLE)["input_ids"])
    features = [model.tokenize(column) for column in (DAMAGED, WHOLE)]
    direct = loss.eval().compute([model.embed(DAMAGED)], loss.prepare([DAMAGED, WHOLE], None))
    torch.testing.assert_close(loss(features), direct)


def test_a_loss_embeds_tokenised_columns_with_its_model_and_trains_it(tiny):
    model = tiny()
    loss = losses.MultipleNegativesRankingLoss(model)
    columns = [["the cat sits", "a red apple"], ["a small cat", "the apple is good"]]
    value = loss([model.tokenize(column) for column in columns], torch.zeros(2))
    value.backward()
    torch.testing.assert_close(value, loss.compute([model.embed(column) for column in columns]), rtol=1e-5, atol=1e-5)
    gradients = [parameter.grad for parameter in loss.parameters() if parameter.grad is not None]
    assert max(gradient.abs().max() for gradient in gradients) > 1e-5
    assert {id(p) for p in loss.parameters()} == {id(p) for p in model.parameters()}


def test_contrastive_tension_embeds_a_text_twice_so_that_dropout_makes_two_views(tiny):
    loss, views = losses.ContrastiveTensionLossInBatchNegatives(tiny(dropout=0.3)), []
    loss.compute = lambda embeddings, labels: views.append(embeddings)
    for mode in (True, False):
        loss.train(mode)([loss.model.tokenize(["the cat sits", "a red apple"])])
    assert [torch.equal(first, second) for first, second in views] == [False, True]


DUE = """CosineSimilarityLoss CoSENTLoss AnglELoss SoftmaxLoss MSELoss MarginMSELoss DistillKLDivLoss TripletLoss
    ContrastiveLoss OnlineContrastiveLoss BatchHardTripletLoss BatchHardSoftMarginTripletLoss BatchSemiHardTripletLoss
    BatchAllTripletLoss MultipleNegativesRankingLoss MultipleNegativesSymmetricRankingLoss MegaBatchMarginLoss
    ContrastiveTensionLossInBatchNegatives GISTEmbedLoss MatryoshkaLoss DenoisingAutoEncoderLoss""".split()


@pytest.mark.parametrize("name", DUE)
def test_every_loss_is_documented_and_has_the_fields_arguments_and_defaults(name):
    text = getattr(losses, name).__doc__
    assert all(part in text for part in ("Rows:", "Relatives:", "Source:", ">>>"))
    mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (losses, peer))
    for argument in mine.keys() & theirs.keys() - {"model"}:
        here, there = mine[argument].default, theirs[argument].default
        known = isinstance(there, (int, float, str, type(None))) or there is inspect.Parameter.empty
        assert here == there if known else callable(here) or here is None, argument
    assert next(iter(mine)) == "model"
