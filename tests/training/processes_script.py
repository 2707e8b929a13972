"""What each process of test_processes.py does: train a tiny model once per run, and write what came out."""

import json
import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2]))

from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.data import NoDuplicatesDataLoader
from sbertlab.evaluation import EmbeddingSimilarityEvaluator
from tests.conftest import tiny_transformer
from tests.training.runs import WORDS

PAIRS = [
    InputExample(texts=[f"the {word} sleeps" + " and runs" * (i % 5), f"a {word} is there", f"no {word}"], label=0.5)
    for i, word in enumerate(WORDS)
]
RANK = os.environ.get("RANK", "0")


class DyingLoss(losses.MultipleNegativesRankingLoss):
    """Ends the second process in its step number `die`."""

    steps = die = 0

    def compute(self, *arguments):
        DyingLoss.steps += 1
        if RANK == "1" and DyingLoss.steps == DyingLoss.die:
            os._exit(9)
        return super().compute(*arguments)


def objectives_of(model, which, rows):
    if which == "ranking":
        return [(NoDuplicatesDataLoader(rows, len(rows) // 2), losses.MultipleNegativesRankingLoss(model))]
    if which == "dying":
        return [(NoDuplicatesDataLoader(rows, len(rows) // 2), DyingLoss(model))]
    if which == "softmax":
        triples = [InputExample(texts=row.texts[:2], label=i % 3) for i, row in enumerate(rows)]
        return [(DataLoader(triples, 6, shuffle=True), losses.SoftmaxLoss(model, 32, 3))]
    pairs = [InputExample(texts=row.texts[:2], label=i / 17) for i, row in enumerate(rows)]
    loader = DataLoader(pairs, 6, shuffle=True)
    if which == "denoising":
        loss = losses.DenoisingAutoEncoderLoss(model)
        loss.decoder.eval()
        for part in loss.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        return [(loader, loss)]
    from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

    return [(loader, CosineSimilarityLoss(model))]


def train(folder, settings):
    folder.mkdir(parents=True, exist_ok=True)
    options = dict(settings)
    dropout, which = options.pop("dropout", 0.0), options.pop("loss", "ranking")
    DyingLoss.die = options.pop("die", 0)
    rows = PAIRS[:4] if options.pop("few", False) else PAIRS
    model = SentenceTransformer(modules=[tiny_transformer(0, dropout), models.Pooling(32)], device="cpu")
    torch.manual_seed(1)

    def callback(event):
        assert RANK == "0", "only the main process calls back"
        (folder / "events").open("a").write(f"{event.kind} {event.step}\n")

    evaluator = EmbeddingSimilarityEvaluator.from_input_examples(
        [InputExample(texts=row.texts[:2], label=i / 17) for i, row in enumerate(PAIRS)], name="dev"
    )
    history = model.fit(
        objectives_of(model, which, rows),
        evaluator=evaluator,
        output_path=folder / "out",
        show_progress_bar=False,
        callbacks=[callback],
        **{"epochs": 3, "warmup_steps": 2, "optimizer_params": {"lr": 1e-3}, "token_budget": 32, **options},
    )
    torch.save(model.state_dict(), folder / f"weights{RANK}.pt")
    (folder / f"history{RANK}.json").write_text(json.dumps(history.to_dict("list")))


if __name__ == "__main__":
    for name, settings in json.loads(sys.argv[2]).items():
        train(Path(sys.argv[1]) / name, settings)
