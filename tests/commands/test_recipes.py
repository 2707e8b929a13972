"""The packaged recipes: each trains a tiny model on the packaged data, and the commands in its comments read files."""

import gzip
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from sbertlab.helpdesk import load_helpdesk, triplets

from sbertlab import InputExample, SentenceTransformer
from sbertlab.commands.train import RECIPES, Data, arguments_of, read_settings, train
from sbertlab.data import write_nemo

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")

SEARCH = "name: InformationRetrievalEvaluator, data: {helpdesk: retrieval, split: dev}"
SETTINGS = {
    "distillation": ["evaluator.teacher_model=tiny", "data.teacher=tiny", "model.layers=1"],
    "matryoshka": ["loss.matryoshka_dims=[32, 16]", f"evaluator=[{{{SEARCH}, truncate_dim: 16}}, {{{SEARCH}}}]"],
    "nemo": ["model.data.data_prefix=train.json", "model.data.evaluation_sample_size=8"],
}
"""What a recipe needs for a model of 32 dimensions."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_on_the_packaged_data(recipe, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = tiny(dropout=0.1)
    start.save("tiny")
    table = triplets(load_helpdesk("train")).head(32)
    write_nemo([InputExample(texts=list(row[:3])) for row in table.to_numpy().tolist()], "train.json")
    words = ["model.name=tiny", "model.max_seq_length=24", "output=out", "fit.steps_per_epoch=2"]
    words += ["fit.epochs=1", "fit.warmup_steps=1", "fit.show_progress_bar=false"]
    history = train([recipe, *SETTINGS.get(recipe, []), *words])
    assert history is not None
    assert history["step"].tolist() == [1, 2]
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(history["metric"].iloc[-1])
    model = SentenceTransformer(tmp_path / "out")
    first, last = (next(iter(one[0].parameters())) for one in (start, model))
    assert not torch.equal(first, last), "it was trained"
    assert model.encode(["the cat sits", "a dog"]).shape == (2, 32)
    assert list((tmp_path / "out" / "eval").glob("*.csv"))


COMMANDS = [
    (recipe, found[0])
    for recipe, path in RECIPES.items()
    for line in path.read_text(encoding="utf-8").splitlines()
    if line.startswith("#") and (found := re.search(r"\S*data\S+=.*", line))
]


@pytest.mark.parametrize(("recipe", "command"), COMMANDS)
def test_the_commands_in_a_recipes_comments_read_a_file(recipe, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.tsv").write_text("anchor\tpositive\tnegative\na\tb\tc\n")
    Path("train.csv").write_text("sentence1,sentence2,score\na,b,1\nd,e,0\n")
    Path("texts.txt").write_text("a\nd\n")
    Path("AllNLI.tsv.gz").write_bytes(gzip.compress(b'split\tsentence1\tsentence2\tlabel\nx\ta\t"b\tneutral\n'))
    write_nemo([InputExample(texts=["a", "b", "c"]) for _ in range(101)], "train.json")
    given = read_settings([recipe, *shlex.split(command)])["data"]
    examples, _ = Data(**arguments_of(Data, given, "data")).read()
    assert examples
    if "path" in given:
        assert examples[0].texts[0] in ("a", "query: a")
