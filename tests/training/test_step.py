"""The gradient of a batch: cached equals plain for every loss, dropout on, and memory holds one chunk."""

import copy
import inspect
import math

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from sbertlab import SentenceTransformer, losses, models
from sbertlab.training.batches import Batch, Objective, set_seed
from sbertlab.training.step import Step

TEXTS = [
    "the cat sits in the garden and sleeps",
    "a dog runs",
    "how do i change the password of my account ?",
    "my parcel is late",
    "rain",
    "the train is slow , the bike is fast and the car is old",
    "open the window",
    "where is the invoice for my order of last month ?",
]
BATCH = 8


def columns(count):
    return [[TEXTS[(row + shift * 3) % BATCH] + " and" * shift for row in range(BATCH)] for shift in range(count)]


def floats():
    return torch.linspace(0, 1, BATCH)


CLASSES = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1])
BINARY = torch.tensor([0, 1, 1, 0, 1, 0, 1, 0])

EVERY = {
    "AnglELoss": lambda m: (losses.AnglELoss(m), 2, floats()),
    "BatchAllTripletLoss": lambda m: (losses.BatchAllTripletLoss(m), 1, CLASSES),
    "BatchHardSoftMarginTripletLoss": lambda m: (losses.BatchHardSoftMarginTripletLoss(m), 1, CLASSES),
    "BatchHardTripletLoss": lambda m: (losses.BatchHardTripletLoss(m), 1, CLASSES),
    "BatchSemiHardTripletLoss": lambda m: (losses.BatchSemiHardTripletLoss(m), 1, CLASSES),
    "CoSENTLoss": lambda m: (losses.CoSENTLoss(m), 2, floats()),
    "ContrastiveLoss": lambda m: (losses.ContrastiveLoss(m), 2, BINARY),
    "ContrastiveTensionLossInBatchNegatives": lambda m: (losses.ContrastiveTensionLossInBatchNegatives(m), 1, None),
    "CosineSimilarityLoss": lambda m: (losses.CosineSimilarityLoss(m), 2, floats()),
    "DenoisingAutoEncoderLoss": lambda m: (losses.DenoisingAutoEncoderLoss(m), 2, None),
    "DistillKLDivLoss": lambda m: (losses.DistillKLDivLoss(m), 4, torch.rand(BATCH, 3)),
    "GISTEmbedLoss": lambda m: (losses.GISTEmbedLoss(m, copy_of(m)), 3, None),
    "MSELoss": lambda m: (losses.MSELoss(m), 1, torch.randn(BATCH, 32)),
    "MarginMSELoss": lambda m: (losses.MarginMSELoss(m), 3, floats()),
    "MatryoshkaLoss": lambda m: (
        losses.MatryoshkaLoss(m, losses.MultipleNegativesRankingLoss(m), [32, 16, 8], n_dims_per_step=2),
        3,
        None,
    ),
    "MegaBatchMarginLoss": lambda m: (losses.MegaBatchMarginLoss(m), 2, None),
    "MultipleNegativesRankingLoss": lambda m: (losses.MultipleNegativesRankingLoss(m), 3, None),
    "MultipleNegativesSymmetricRankingLoss": lambda m: (losses.MultipleNegativesSymmetricRankingLoss(m), 2, None),
    "OnlineContrastiveLoss": lambda m: (losses.OnlineContrastiveLoss(m), 2, BINARY),
    "SoftmaxLoss": lambda m: (losses.SoftmaxLoss(m, 32, 3), 2, CLASSES),
    "TripletLoss": lambda m: (losses.TripletLoss(m), 3, None),
}


def copy_of(model):
    other = SentenceTransformer(modules=copy.deepcopy(list(model)), device="cpu")
    for parameter in other.parameters():
        parameter.data.mul_(0.9)
    return other


def gradient_of(model, loss, count, labels, precision="no", **how):
    """The loss and the gradients of what is trained, at one fixed place of a run."""
    for module in (model, loss):
        module.train()
        module.zero_grad()
    parameters = dict([*model.named_parameters(), *loss.named_parameters(prefix="loss")])
    value = learn(model, loss, Batch(columns(count), labels), precision, **how)
    return value, {name: part.grad.clone() for name, part in parameters.items() if part.grad is not None}


def learn(model, loss, batch, precision="no", **how):
    """Take a step at a learning rate of 0, so that it leaves the gradients and nothing else; return the loss."""
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    parameters = {id(part): part for module in (model, loss) for part in module.parameters()}
    optimizer = torch.optim.SGD(list(parameters.values()), lr=0.0)
    objective = Objective([], loss, 0, 7, model.device)
    how = {"token_budget": 24, "max_grad_norm": math.inf, **how}
    step = Step(model, [objective], optimizer, None, accelerator, **how)
    return step.learn(objective, batch, 1)["loss"]


def assert_close(a, b, relative):
    assert a.keys() == b.keys()
    assert any(part.abs().max() > 1e-6 for part in b.values()), "there must be gradients to compare"
    scale = max(part.abs().max() for part in b.values())
    for name in b:
        assert (a[name] - b[name]).abs().max() <= relative * scale, name


def test_every_loss_is_among_the_cases():
    classes = {
        name
        for name in losses.__all__
        if inspect.isclass(kind := getattr(losses, name)) and issubclass(kind, losses.Loss)
    }
    assert classes - {"Loss"} == EVERY.keys()


@pytest.mark.parametrize("name", EVERY)
def test_cached_equals_plain_with_dropout_on(tiny, name):
    model = tiny(dropout=0.2)
    torch.manual_seed(0)
    loss, count, labels = EVERY[name](model)
    plain, plain_gradients = gradient_of(model, loss, count, labels)
    cached, cached_gradients = gradient_of(model, loss, count, labels, cached=True)
    assert abs(plain - cached) <= 1e-6 * max(1, abs(plain))
    assert_close(cached_gradients, plain_gradients, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("cached", [False, True])
def test_the_gradient_is_that_of_one_graph_through_all_texts(tiny, name, cached):
    model = tiny(dropout=0.0)
    torch.manual_seed(0)
    loss, count, labels = EVERY[name](model)
    loss.eval()  # the decoder of TSDAE has its own dropout
    for part in loss.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    value, gradients = gradient_of(model, loss, count, labels, cached=cached)
    model.zero_grad(), loss.zero_grad()
    with torch.no_grad():
        prepared = loss.prepare(columns(count), labels)
    embedded = list(columns(count)[loss.embedded]) * loss.views
    set_seed(model.device, 7, "step", 1, 0, "loss")
    expected = loss.compute([model.embed(column) for column in embedded], prepared)
    expected.backward()
    assert abs(value - expected.item()) <= 1e-5 * max(1, abs(value))
    parameters = dict([*model.named_parameters(), *loss.named_parameters(prefix="loss")])
    there = {key: part.grad for key, part in parameters.items() if part.grad is not None}
    assert_close(gradients, there, 1e-5)


def test_dropout_differs_between_chunks_and_between_places(tiny):
    model = tiny(dropout=0.2)
    loss = losses.ContrastiveTensionLossInBatchNegatives(model)
    same = [gradient_of(model, loss, 1, None)[0] for _ in range(2)]
    other_chunks = gradient_of(model, loss, 1, None, token_budget=12)[0]
    assert same[0] == same[1]
    assert same[0] != other_chunks


@pytest.mark.parametrize("cached", [False, True])
def test_mixed_precision_is_close_to_float32(tiny, cached):
    model = tiny()
    loss, count, labels = EVERY["MultipleNegativesRankingLoss"](model)
    exact, exact_gradients = gradient_of(model, loss, count, labels)
    value, gradients = gradient_of(model, loss, count, labels, precision="bf16", cached=cached)
    assert value != exact
    assert abs(value - exact) < 0.02 * exact
    assert_close(gradients, exact_gradients, 0.1)


def test_cached_equals_plain_under_mixed_precision_with_dropout_on(tiny):
    model = tiny(dropout=0.2)
    loss, count, labels = EVERY["MatryoshkaLoss"](model)
    plain, plain_gradients = gradient_of(model, loss, count, labels, precision="bf16")
    cached, cached_gradients = gradient_of(model, loss, count, labels, precision="bf16", cached=True)
    assert abs(plain - cached) < 1e-6
    assert_close(cached_gradients, plain_gradients, 1e-5)


def test_several_routes_share_a_batch_in_the_cache(tiny):
    parts = [tiny(seed=seed) for seed in (0, 1)]
    router = models.Router({"query": list(parts[0]), "document": list(parts[1])})
    model = SentenceTransformer(modules=[router], device="cpu")
    loss = losses.MultipleNegativesRankingLoss(model)
    rows = [[{"query": text} for text in columns(1)[0]], [{"document": text} for text in columns(2)[1]]]
    results = []
    for cached in (False, True):
        model.zero_grad()
        value = learn(model, loss, Batch(rows, None), cached=cached)
        found = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
        results.append((value, found))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6)
    assert_close(results[0][1], results[1][1], 1e-5)


@pytest.mark.long
def test_a_batch_of_4096_triplets_trains_the_real_model_within_three_gibibytes(minilm_folder):
    """In a process of its own, because a process's peak never falls."""
    import subprocess
    import sys

    code = f"""
import resource, torch
from torch.utils.data import DataLoader
from sbertlab import InputExample, SentenceTransformer, losses
model = SentenceTransformer({str(minilm_folder)!r}, device="cpu")
words = "a man plays guitar on the old stage while two children watch him".split()
rows = [InputExample(texts=[f"{{words[i % 13]}} {{i}} {{k}} {{words[i % 7]}}" for k in range(3)]) for i in range(4096)]
loss = losses.MultipleNegativesRankingLoss(model)
history = model.fit([(DataLoader(rows, batch_size=4096), loss)], warmup_steps=0, cached=True, show_progress_bar=False)
assert len(history) == 1 and history["loss"][0] > 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) < 3.0, "GiB"
