import random
import signal
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch

from sbertlab import SentenceTransformer, helpdesk, models
from sbertlab.benchmark import recipes
from sbertlab.benchmark.encoders import Candidate
from sbertlab.benchmark.published import DATA
from sbertlab.benchmark.recipes import (
    ALL_NLI,
    NLI_LOCAL,
    OFFLINE,
    STSB_DEV,
    TRAINING_NLI_V2,
    NLIRecipe,
    Recipe,
    nli_triplets,
)
from sbertlab.storage.files import sha256_of
from sbertlab.training.checkpoint import Checkpoints
from sbertlab.util import cos_sim
from tests.benchmark.sets import write
from tests.training.runs import assert_equal, weights

COLUMNS = ["sentence1", "sentence2", "label"]
LABELS = ["entailment", "contradiction", "neutral", "-"]
SHORT = {"batch_size": 16, "rows": 160, "learning_rate": 1e-3}


def candidate(**rates):
    return Candidate("tiny", len, learning_rates={name.replace("_", "-"): rate for name, rate in rates.items()})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of data sets, with made-up pairs: who does what where."""
    monkeypatch.setenv("SBERTLAB_DATA", str(tmp_path))
    who, does = ("cat", "dog", "bird", "man", "woman", "child"), ("sits", "runs", "plays", "sleeps", "eats", "reads")
    where = ("in the garden", "by the river", "at the table", "on the train", "in the street", "by the sea")
    rows = []
    for (i, a), (j, b), (k, c) in product(enumerate(who), enumerate(does), enumerate(where)):
        others = [f"a {a} {b}", f"the {a} {does[(j + 1 + k) % 6]} {c}", f"a red {a}", f"a blue {who[(i + 1) % 6]}"]
        rows += [(f"the {a} {b} {c}", *other) for other in zip(others, LABELS, strict=True)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.insert(0, "split", ["dev", "test"] * (len(table) // 2))
    draw = random.Random(0)
    pairs = [("test", "not", "this", "1"), ("train", "nor", "that", "0")]
    for _ in range(120):
        (a, b, c), (x, y, z) = ([draw.choice(part) for part in (who, does, where)] for _ in range(2))
        pairs.append(("dev", f"a {a} {b} {c}", f"the {x} {y} {z}", (2 * (a == x) + 2 * (b == y) + (c == z)) / 5))
    stsb = pd.DataFrame(pairs, columns=["split", "sentence1", "sentence2", "score"])
    for name, frame in {"snli_devtest": table, "stsb": stsb}.items():
        (tmp_path / name).mkdir()
        frame.to_csv(tmp_path / name / "data.csv.gz", index=False)
    return tmp_path


@pytest.fixture
def local(folder):
    return replace(NLI_LOCAL, **SHORT)


def test_triplets_are_as_many_as_the_plain_formula_allows_and_among_them():
    draw = random.Random(1)
    words, labels = [f"s{number}" for number in range(60)], LABELS
    for seed in range(5):
        table = [(draw.choice(words) + " " * draw.randrange(2), *map(draw.choice, (words, labels))) for _ in range(150)]
        partners = {}
        for first, second, label in table:
            for one, other in ((first.strip(), second), (second, first.strip())):
                partners.setdefault(one, {name: set() for name in labels})[label].add(other)
        both = {one for one, found in partners.items() if found["entailment"] and found["contradiction"]}
        assert 0 < len(both) < 60
        found = nli_triplets(pd.DataFrame(table, columns=COLUMNS), seed).to_numpy().tolist()
        assert len(found) == 2 * len(both)
        anchors, positives = set(), set()
        for anchor, positive, negative in found:
            for one, other, places in ((anchor, positive, anchors), (positive, anchor, positives)):
                if one in both and other in partners[one]["entailment"] and negative in partners[one]["contradiction"]:
                    places.add(one)
            assert anchor in anchors or positive in positives
        assert anchors == positives == both, "each sentence stands at both places"


def test_partners_are_drawn_evenly_among_distinct_texts_and_independently():
    rows = [("p", text, "entailment") for text in ("e1", "e2", "e2", "e2", "e3")]
    rows += [("p", text, "contradiction") for text in ("c1", "c2")]
    pairs = pd.DataFrame(rows, columns=COLUMNS)
    first = Counter()
    both = Counter()
    for seed in range(300):
        drawn = {row[0] == "p": row for row in nli_triplets(pairs, seed).to_numpy().tolist()}
        first[drawn[True][1], drawn[True][2]] += 1
        both[drawn[True][1], drawn[False][0]] += 1
    for counts, kinds in ((first, 6), (both, 9)):
        assert len(counts) == kinds
        assert all(abs(count - 300 / kinds) < 30 for count in counts.values()), counts


def test_recipes_describe_settings_and_data_without_a_path_of_this_machine(local, folder):
    assert [recipe.name for recipe in (OFFLINE, TRAINING_NLI_V2, NLI_LOCAL)] == list(DATA["differences"])
    described = local.describe()
    assert (described["name"], described["rows"]) == ("nli-local", 160)
    files = {"snli_devtest/data.csv.gz": ", all rows", "stsb/data.csv.gz": ", dev rows"}
    assert described["data"] == {name + words: sha256_of(folder / name) for name, words in files.items()}
    assert str(folder) not in str(described)
    assert OFFLINE.describe()["data"] == {"corpora/helpdesk.jsonl": sha256_of(helpdesk.CORPUS)}


def test_missing_or_unusable_data_are_named(local, folder, monkeypatch):
    path = folder / "snli_devtest" / "data.csv.gz"
    table = pd.read_csv(path)
    table[table["label"] == "neutral"].to_csv(path, index=False)
    with pytest.raises(ValueError, match="no sentence has both an entailment and"):
        local.triplets(0)
    table[["label"]].to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"snli_devtest/data\.csv\.gz is missing sentence1, sentence2"):
        local.triplets(0)
    monkeypatch.delenv("SBERTLAB_DATA")
    with pytest.raises(FileNotFoundError, match=r"SBERTLAB_DATA/snli_devtest/data\.csv\.gz"):
        local.data()


def test_the_hub_is_asked_for_pinned_revisions_and_its_classes_get_their_names(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.delenv("SBERTLAB_DATA", raising=False)
    asked = []

    def load_dataset(**arguments):
        asked.append(arguments)
        if arguments["path"].endswith("stsb"):
            return datasets.Dataset.from_dict({"sentence1": ["a", "c"], "sentence2": ["b", "d"], "score": [0.25, 1]})
        kinds = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
        features = {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": kinds}
        rows = {"premise": ["p"] * 4, "hypothesis": ["e", "n", "c", "-"], "label": [0, 1, 2, -1]}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    labels = ["entailment", "neutral", "contradiction", "-"]
    expected = [["p", text, label] for text, label in zip("enc-", labels, strict=True)]
    assert ALL_NLI.read().to_numpy().tolist() == expected
    assert STSB_DEV.read().to_numpy().tolist() == [["a", "b", 0.25], ["c", "d", 1]]
    all_nli = {"path": "sentence-transformers/all-nli", "name": "pair-class", "split": "train"}
    stsb = {"path": "sentence-transformers/stsb", "split": "validation"}
    assert asked == [
        all_nli | {"revision": "d482672c8e74ce18da116f430137434ba2e52fab"},
        stsb | {"revision": "ab7a5ac0e35aa22088bdcf23e7fd99b220e53308"},
    ]
    assert sorted(TRAINING_NLI_V2.triplets(0).to_numpy().tolist()) == [["e", "p", "c"], ["p", "e", "c"]]
    moved = replace(ALL_NLI, hub=all_nli | {"revision": "0" * 40})
    assert replace(TRAINING_NLI_V2, pairs=moved).data() != TRAINING_NLI_V2.data()


def test_a_local_all_nli_is_read_as_the_field_writes_it(folder):
    lines = [
        "split\tdataset\tfilename\tsentence1\tsentence2\tlabel",
        'train\tSNLI\tf\tHe said "yes\tHe spoke\tentailment',
        'train\tSNLI\tf\tHe said "yes\tHe slept\tcontradiction',
        "dev\tMNLI\tf\tnull\tNA\tneutral",
    ]
    write(folder / "AllNLI.tsv.gz", *lines)
    recipe = replace(TRAINING_NLI_V2, batch_size=2)
    assert list(recipe.data()) == ["AllNLI.tsv.gz, train rows", "stsb/data.csv.gz, dev rows"]
    assert sorted(recipe.triplets(0).to_numpy().tolist()) == [
        ['He said "yes', "He spoke", "He slept"],
        ["He spoke", 'He said "yes', "He slept"],
    ]
    assert len(recipe.evaluator().scores) == 120


def capture(monkeypatch, recipe, model, **rates):
    """Return what the recipe gives to `fit`."""
    found = {}

    def remember(model, objectives, **settings):
        ((loader, loss),) = objectives
        found.update(settings, loader=loader, loss=loss, length=model.max_seq_length)
        raise InterruptedError

    monkeypatch.setattr(recipes, "fit", remember)
    with pytest.raises(InterruptedError):
        recipe.fine_tune(model, candidate(**rates), 3, Path("unused"))
    return found


class Longest:
    """A loader of as many batches as the model cards of the published runs print."""

    def __init__(self, rows, batch_size, seed):
        self.rows, self.batch_size, self.seed = rows, batch_size, seed

    def __len__(self):
        return 8807


def test_the_recipe_of_the_table_has_the_settings_of_the_published_runs(folder, tiny, monkeypatch):
    monkeypatch.setattr(recipes, "NoDuplicatesDataLoader", Longest)
    assert TRAINING_NLI_V2.max_seq_length == 75
    recipe = replace(TRAINING_NLI_V2, pairs=NLI_LOCAL.pairs, max_seq_length=30)
    found = capture(monkeypatch, recipe, tiny())
    assert found["length"] == 30
    assert (found["warmup_steps"], found["evaluation_steps"]) == (881, 880)
    assert found["optimizer_params"] == {"lr": 2e-5}
    assert found["weight_decay"] == 0.01
    assert (found["loader"].batch_size, found["loader"].seed, found["seed"]) == (64, 3, 3)
    assert len(found["loader"].rows) == len(nli_triplets(NLI_LOCAL.pairs.read()))
    loss = found["loss"]
    assert (loss.scale, loss.hard_negatives, loss.similarity_fct) == (20.0, "shared", cos_sim)
    assert found["save_best_model"] is True
    assert found["mask_known_positives"] is False
    assert found["evaluator"].primary_metric == "spearman_max"
    assert not {"epochs", "scheduler", "mixed_precision", "use_amp", "optimizer_class"} & set(found), (
        "fit's own: 1, WarmupLinear, float32, AdamW"
    )


def test_an_encoder_may_bring_its_own_rate_for_a_recipe(local, tiny, monkeypatch):
    for rates, expected in [({}, 1e-3), ({"nli_local": 0.25}, 0.25), ({"helpdesk_triplets": 0.5}, 1e-3)]:
        assert capture(monkeypatch, local, tiny(), **rates)["optimizer_params"] == {"lr": expected}


def static(transformer):
    block = models.StaticEmbedding.from_transformer(transformer)
    return SentenceTransformer(modules=[block, models.Normalize()], device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["bert", "static"])
def test_the_recipe_trains_from_end_to_end_and_what_is_measured_is_the_best_checkpoint(kind, local, tiny, tmp_path):
    model = tiny(dropout=0.1)
    model = static(model[0]) if kind == "static" else model
    evaluator = local.evaluator()
    before = weights(model)
    length = model.max_seq_length
    history = local.fine_tune(model, candidate(nli_local=1e-2), 1, tmp_path)
    assert len(history) in (9, 10), "as many full batches as 160 rows without a repeated text give"
    measured = history.loc[history["metric"].notna(), "step"].tolist()
    assert measured == [2, 4, 6, 8, len(history)], "four times in the epoch, and at its end"
    assert history["loss"].tail(3).mean() < history["loss"].head(3).mean()
    assert evaluator(model)[evaluator.primary_metric] == pytest.approx(history["metric"].max(), abs=1e-6)
    assert any(not torch.equal(before[name], value) for name, value in weights(model).items())
    assert model.max_seq_length == length
    assert not model.training


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_best_checkpoint_counts_even_in_the_middle_of_a_run(local, tiny, monkeypatch, tmp_path):
    seen = []

    def judge(model, **_):
        seen.append(weights(model))
        return [0.1, 0.7, 0.3, 0.2, 0.6][len(seen) - 1]

    monkeypatch.setattr(NLIRecipe, "evaluator", lambda self: judge)
    model = tiny(dropout=0.1)
    local.fine_tune(model, candidate(), 0, tmp_path)
    assert len(seen) == 5
    assert_equal(model, seen[1])
    with pytest.raises(AssertionError):
        assert_equal(model, seen[-1])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["nli-local", "helpdesk-triplets"])
def test_a_killed_fine_tuning_resumes_and_ends_in_the_same_weights(name, local, tiny, tmp_path, monkeypatch):
    recipe = replace(local, learning_rate=1e-2) if name == "nli-local" else Recipe(rows=180, learning_rate=1e-2)
    unbroken = tiny(dropout=0.1)
    recipe.fine_tune(unbroken, candidate(), 0, tmp_path)
    monkeypatch.setattr(recipes, "CHECKPOINT_STEPS", 2)
    saved = []
    save = Checkpoints.on_checkpoint

    def killed(checkpoints, run):
        saved.append(run.step.number)
        save(checkpoints, run)
        if run.step.number == 4:
            raise SystemExit

    monkeypatch.setattr(Checkpoints, "on_checkpoint", killed)
    with pytest.raises(SystemExit):
        recipe.fine_tune(tiny(dropout=0.1), candidate(), 0, tmp_path / "training")
    model = tiny(dropout=0.1)
    recipe.fine_tune(model, candidate(), 0, tmp_path / "training")
    assert saved[:3] == [2, 4, 6], "nothing was done twice"
    assert_equal(model, unbroken)
    with pytest.raises(AssertionError):
        assert_equal(model, tiny(dropout=0.1))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_length_of_training_stays_or_goes_as_the_recipe_says(local, tiny, tmp_path):
    short = replace(local, rows=64, max_seq_length=6)
    for keeps, expected in [(True, 64), (False, 6)]:
        model = tiny()
        replace(short, keeps_length=keeps).fine_tune(model, candidate(), 0, tmp_path)
        assert model.max_seq_length == expected


@pytest.mark.parametrize("last", [False, True])
def test_an_interrupted_run_is_not_measured_even_in_its_last_step(last, tiny, monkeypatch, tmp_path):
    def press(event):
        if event.kind == "step" and event.step == (event.steps if last else 1):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(recipes, "fit", partial(recipes.fit, callbacks=[press]))
    with pytest.raises(KeyboardInterrupt):
        Recipe(rows=60).fine_tune(tiny(), candidate(), 0, tmp_path)


def test_the_helpdesk_recipe_trains_on_training_intents_only_in_batches_without_an_intent_twice(tiny):
    loader, loss, selection = OFFLINE.objective(tiny(), 2)
    assert (loss.scale, loss.hard_negatives, selection) == (20.0, "own", {})
    loader.collate_fn = list
    batches = [[example.texts for example in batch] for batch in loader]
    train = helpdesk.load_helpdesk("train")
    intent_of = dict(zip(train["text"], train["intent"], strict=True))
    assert len(batches) == OFFLINE.rows // OFFLINE.batch_size == 10
    for batch in batches:
        assert {text for texts in batch for text in texts} <= {*train["text"], *train["answer"]}
        assert len({intent_of[anchor] for anchor, _, _ in batch}) == len(batch) == OFFLINE.batch_size
