"""`make speed`: sbertlab and sentence-transformers side by side, in one process, on the same texts and weights.

Each value is the median of runs that alternate (A B A B ...), because machines are noisy, and is printed with the
largest difference of the results: a ratio means nothing if the numbers differ. Texts come from the folder that
SBERTLAB_DATA names (stsb, wikiqa, snli_devtest); without it, from the helpdesk corpus. Takes about five minutes and
writes figures/speed.csv.
"""

import os
import statistics
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import sentence_transformers
import torch
from sbertlab.helpdesk import load_helpdesk, triplets
from scipy.stats import spearmanr
from sentence_transformers.sentence_transformer import losses as peer_losses
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

import sbertlab
from sbertlab import InputExample, SentenceTransformer, losses
from sbertlab.benchmark.runner import processor_name
from sbertlab.models import fast_cpu
from sbertlab.storage.find import find_model

MODEL = "all-MiniLM-L6-v2"
TEXTS = 1000  # to encode
BATCH, STEPS = 64, 3  # of training
REPEATS = 3  # measured rounds per row
OUTPUT = Path("figures/speed.csv")


def machine_name():
    """Return the processor's name, its widest matrix instructions and how many threads are used."""
    known = torch.cpu.get_capabilities()
    found = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if known.get(name)]
    return f"{processor_name()}, {' '.join(found)}, {torch.get_num_threads()} threads"


def seconds_of(run):
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def alternate(a, b, name):
    """Call two functions that return seconds, once unmeasured, then in turn; return the median of each."""
    rounds = [(a(), b()) for _ in tqdm(range(REPEATS + 1), desc=name, unit="round", leave=False)]
    first, second = zip(*rounds[1:], strict=True)
    return statistics.median(first), statistics.median(second)


def text_sets(folder, count):
    """Return the sets of texts to encode, by name."""
    if folder is None:
        return {"helpdesk": load_helpdesk()["text"].tolist()[:count]}
    stsb = pd.read_csv(folder / "stsb" / "data.csv.gz")
    wikiqa = pd.read_json(folder / "wikiqa" / "corpus.jsonl.gz", lines=True)
    sentences = pd.unique(stsb[["sentence1", "sentence2"]].to_numpy().ravel())  # no gain from repeated texts
    return {
        "stsb": pd.Series(sentences).sample(count, random_state=0).tolist(),
        "wikiqa": wikiqa["text"].drop_duplicates().sample(count // 2, random_state=0).tolist(),
    }


def nli_triplets(folder, count):
    """Return the source of the triplets and the triplets."""
    if folder is None:
        rows = triplets(load_helpdesk("train")).head(count)
        return "helpdesk", list(rows[["anchor", "positive", "negative"]].itertuples(index=False, name=None))
    frame = pd.read_csv(folder / "snli_devtest" / "triplets.csv.gz").sample(count, random_state=0)
    return "snli_devtest", list(frame[["anchor", "positive", "negative"]].itertuples(index=False, name=None))


def long_pairs(folder, count):
    """Return the source of pairs of mixed lengths, and pairs of distinct texts."""
    texts = text_sets(folder, 2 * count if folder is None else 4 * count)
    name = "helpdesk" if folder is None else "wikiqa"
    return name, list(zip(texts[name][::2], texts[name][1::2], strict=False))[:count]


def stsb_spearman(model, folder):
    """Return the Spearman correlation (x100) on the test split of STSb; NaN without the set."""
    if folder is None:
        return float("nan")
    frame = pd.read_csv(folder / "stsb" / "data.csv.gz").query("split == 'test'")
    a, b = (model.encode(frame[column], normalize_embeddings=True) for column in ("sentence1", "sentence2"))
    return 100 * float(spearmanr((a * b).sum(axis=1), frame["score"]).statistic)


def encode_rows(path, folder):
    """Time encoding, in float32 and bfloat16, against the peer's float32 default."""
    peer = sentence_transformers.SentenceTransformer(str(path), device="cpu")
    ours = SentenceTransformer(path, device="cpu")
    half = SentenceTransformer(path, device="cpu", model_kwargs={"dtype": torch.bfloat16})
    lost = stsb_spearman(half, folder) - stsb_spearman(ours, folder)
    rows = []
    for name, texts in text_sets(folder, TEXTS).items():
        theirs = partial(peer.encode, texts, show_progress_bar=False)
        expected, work = theirs(), f"encode {name}"
        for precision, model in (("float32", ours), ("bfloat16", half)):
            mine = partial(model.encode, texts)
            seconds = alternate(partial(seconds_of, theirs), partial(seconds_of, mine), work)
            difference = float(np.abs(mine() - expected).max())
            rows.append(comparison(work, precision, "texts/s", len(texts), seconds, difference))
            rows[-1]["stsb_points"] = lost if precision == "bfloat16" else 0.0
            share = flops(ours, texts) / seconds[1] / gemm_rate(getattr(torch, precision))
            rows[-1]["gemm_share"] = share
            print(f"{'':54s} {share:.0%} of the GEMM rate", flush=True)
    return rows


def gemm_rate(dtype):
    """Return the best operations per second of this machine on the largest matrix product of the encoder."""
    if dtype == torch.bfloat16 and not fast_cpu.has_native_bfloat16():
        dtype = torch.float32  # the encoder multiplies in float32 there
    x, weight = torch.randn(1024, 384, dtype=dtype), torch.randn(1536, 384, dtype=dtype)
    ways = [lambda: torch.nn.functional.linear(x, weight)]
    if dtype == torch.float32:
        ways.append(lambda: fast_cpu.onednn_linear(x, weight, None))
    best = min(statistics.median(seconds_of(way) for _ in range(15)) for way in ways)
    return 2 * len(x) * weight.numel() / best


def flops(model, texts):
    """Return the floating-point operations of the encoder's linear layers for these texts, without padding."""
    linear = [module for module in model[0].auto_model.encoder.modules() if isinstance(module, torch.nn.Linear)]
    tokens = sum(map(len, model[0].token_ids(texts).ids))
    return 2.0 * tokens * sum(module.weight.numel() for module in linear)


def comparison(work, precision, unit, count, seconds, difference):
    """Print one comparison with the peer in float32 and return it as a row of the table."""
    peer, ours = (count / each for each in seconds)
    speeds = f"peer {peer:8.1f}  sbertlab {ours:8.1f} {unit:8s} {ours / peer:5.2f}x"
    print(f"{work:44s} {precision:9s} {speeds}  difference {difference:.1e}", flush=True)
    row = {"work": work, "precision": precision, "peer_precision": "float32", "unit": unit}
    return row | {"peer": peer, "sbertlab": ours, "ratio": ours / peer, "difference": difference}


def training_rows(path, folder):
    """Time training steps against the peer's, dropout off, and compare the losses of the steps."""
    nli, triplets_ = nli_triplets(folder, 8 * BATCH)
    pairs_of, pairs_ = long_pairs(folder, 2 * BATCH)
    plans = [  # source, rows, batch size, precision, gradient cache
        (f"{nli} triplets", triplets_[: STEPS * BATCH], BATCH, "float32", False),
        (f"{nli} triplets", triplets_[: STEPS * BATCH], BATCH, "bfloat16", False),
        (f"{pairs_of} pairs", pairs_, BATCH, "float32", False),
        (f"{nli} triplets", triplets_, len(triplets_), "float32", True),
    ]
    rows = []
    for source, texts, batch, precision, cached in plans:
        results = {}
        work = f"train {source}, batch {batch}{', cached' if cached else ''}"
        theirs = partial(train_peer, path, texts, batch, cached, results)
        mine = partial(train_ours, path, texts, batch, precision, cached, results)
        seconds = alternate(theirs, mine, work)
        difference = float(np.abs(np.subtract(results["peer"], results["ours"])).max())
        rows.append(comparison(work, precision, "rows/s", len(texts), seconds, difference))
    return rows


def train_peer(path, rows, batch, cached, results):
    """Train the peer in a plain loop, as its trainer does, in float32; return the seconds and store the losses."""
    model = no_dropout(sentence_transformers.SentenceTransformer(str(path), device="cpu"))
    loss = getattr(peer_losses, f"{'Cached' * cached}MultipleNegativesRankingLoss")(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0)
    model.train()
    start = time.perf_counter()
    results["peer"] = []
    for first in range(0, len(rows), batch):
        optimizer.zero_grad()
        columns = zip(*rows[first : first + batch], strict=True)
        value = loss([model.tokenize(list(column)) for column in columns], None)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        results["peer"].append(value.item())
    return time.perf_counter() - start


def train_ours(path, rows, batch, precision, cached, results):
    """Train with `fit`; return the seconds and store the losses."""
    model = no_dropout(SentenceTransformer(path, device="cpu"))
    examples = [InputExample(texts=list(row)) for row in rows]
    start = time.perf_counter()
    history = model.fit(
        [(DataLoader(examples, batch_size=batch), losses.MultipleNegativesRankingLoss(model))],
        scheduler="ConstantLR",
        warmup_steps=0,
        weight_decay=0.0,
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        cached=cached,
        mask_known_positives=False,  # the peer's loss does not mask them
        show_progress_bar=False,
    )
    results["ours"] = history["loss"].tolist()
    return time.perf_counter() - start


def no_dropout(model):
    """Set every dropout of the model to zero."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(getattr(module, "config", None), "attention_probs_dropout_prob"):
            module.config.attention_probs_dropout_prob = 0.0
    return model


def main():
    """Measure, print and write the table."""
    warnings.simplefilter("ignore")
    folder = Path(os.environ["SBERTLAB_DATA"]) if os.environ.get("SBERTLAB_DATA") else None
    path = find_model(MODEL)
    versions = {"torch": torch.__version__, "peer_version": sentence_transformers.__version__}
    print(f"{machine_name()}\nsbertlab {sbertlab.__version__}, {versions}")
    rows = encode_rows(path, folder) + training_rows(path, folder)
    table = pd.DataFrame(rows).assign(machine=machine_name(), **versions)
    table.to_csv(OUTPUT, index=False, float_format="%.6g")
    print(f"written: {OUTPUT}")


if __name__ == "__main__":
    main()
