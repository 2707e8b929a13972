"""What a process of tests/test_processes.py does: train a tiny model and write what came out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import tiny_transformer

from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.data import NoDuplicatesDataLoader
from sbertlab.evaluation import EmbeddingSimilarityEvaluator

WORDS = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
PAIRS = [
    InputExample(texts=[f"the {word} sleeps" + " and runs" * (i % 5), f"a {word} is there", f"no {word}"], label=0.5)
    for i, word in enumerate(WORDS)
]


def main(folder: Path, settings: dict) -> None:
    rank = os.environ.get("RANK", "0")
    options = dict(settings)
    dropout, die, which = options.pop("dropout", 0.0), options.pop("die", None), options.pop("loss", "ranking")
    rows = PAIRS[:4] if options.pop("few", False) else PAIRS
    transformer = tiny_transformer(0, dropout)
    model = SentenceTransformer(modules=[transformer, models.Pooling(32)], device="cpu")
    torch.manual_seed(1)
    if which == "ranking":
        objectives = [(NoDuplicatesDataLoader(rows, len(rows) // 2), losses.MultipleNegativesRankingLoss(model))]
    elif which == "softmax":
        triples = [InputExample(texts=row.texts[:2], label=i % 3) for i, row in enumerate(rows)]
        objectives = [(DataLoader(triples, 6, shuffle=True), losses.SoftmaxLoss(model, 32, 3))]
    elif which == "denoising":
        pairs = [InputExample(texts=row.texts[:2]) for row in rows]
        objectives = [(DataLoader(pairs, 6, shuffle=True), losses.DenoisingAutoEncoderLoss(model))]
        objectives[0][1].decoder.eval()
        for part in objectives[0][1].modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    else:
        from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss

        pairs = [InputExample(texts=row.texts[:2], label=i / 17) for i, row in enumerate(rows)]
        objectives = [(DataLoader(pairs, 6, shuffle=True), CosineSimilarityLoss(model))]

    def callback(event) -> None:  # type: ignore[no-untyped-def]
        assert rank == "0", "only the first process calls back"
        (folder / "events").open("a").write(f"{event.kind} {event.step}\n")

    class DyingLoss(losses.MultipleNegativesRankingLoss):
        steps = 0

        def compute(self, *arguments):  # type: ignore[no-untyped-def]
            DyingLoss.steps += 1
            if rank == "1" and DyingLoss.steps == die:
                os._exit(9)
            return super().compute(*arguments)

    if die:
        objectives = [(objectives[0][0], DyingLoss(model))]
    evaluator = EmbeddingSimilarityEvaluator.from_input_examples(
        [InputExample(texts=row.texts[:2], label=i / 17) for i, row in enumerate(PAIRS)], name="dev"
    )
    history = model.fit(
        objectives,
        evaluator=evaluator,
        output_path=folder / "out",
        show_progress_bar=False,
        callbacks=[callback],
        **{"epochs": 3, "warmup_steps": 2, "optimizer_params": {"lr": 1e-3}, "token_budget": 32, **options},
    )
    torch.save(model.state_dict(), folder / f"weights{rank}.pt")
    (folder / f"history{rank}.json").write_text(json.dumps(history.to_dict("list")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
