"""The panel that compares typed sentences and explains why two are alike."""

import numpy as np
import pytest

from sbertlab import models
from sbertlab.analysis.explain import explain
from sbertlab.plots.analysis import explanation_figure
from sbertlab.widgets import SimilarityExplorer


def test_typed_sentences_are_compared_and_a_pair_is_explained(tiny, controls):
    def compare(typed):
        panel._typed.value = typed
        controls(panel)["Compare"].click()

    model = tiny()
    panel = SimilarityExplorer(model, ["the cat", "a dog"])
    assert panel.explanation.score == pytest.approx(explain(model, "the cat", "a dog").score)
    compare("the cat\n\n  my   garden \nthe bank <b>\n")
    assert panel.texts == ["the cat", "my garden", "the bank <b>"]
    embeddings = model.encode(panel.texts)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.testing.assert_allclose(panel.similarities, unit @ unit.T, atol=1e-6)
    before = panel._tokens.value
    panel.select(1, 2)
    assert panel.explanation.score == pytest.approx(panel.similarities[1, 2], abs=1e-6)
    assert panel._tokens.value != before
    compare("alone")
    assert panel.problem == "type from 2 to 24 sentences, one per line; got 1"
    assert len(panel.texts) == 3, "what was shown stays"


def test_a_pair_that_cannot_be_explained_leaves_the_matrix(tiny, monkeypatch):
    def refuse(model, a, b):
        if "dog" in b:
            raise ValueError("the model gives 'a <dog>' the zero vector")
        return explain(model, a, b)

    monkeypatch.setattr("sbertlab.widgets.similarity_explorer.explain", refuse)
    panel = SimilarityExplorer(tiny(), ["the cat", "a <dog>", "the sun"])
    assert panel.explanation is None
    assert "gives &#x27;a &lt;dog&gt;&#x27; the zero vector" in panel._words.value
    assert panel._tokens.value == b""
    assert panel.static().axes, "the matrix"
    panel.select(0, 2)
    assert panel.explanation is not None
    assert "zero vector" not in panel._words.value


def test_what_belongs_to_no_token_is_said(tiny):
    panel = SimilarityExplorer(tiny(modules=[models.Dense(32, 8)]), ["the cat", "a dog"])
    assert "see (rest)" in panel._words.value
    assert "(rest)" in panel.explanation.pairs.index


def test_the_figure_has_every_share_and_the_sums_at_its_edge(tiny):
    found = explain(tiny(), "the cat sits", "a dog")
    (axes,) = explanation_figure(found, theme="dark").axes
    texts = [text.get_text() for text in axes.texts]
    rows, columns = found.pairs.shape
    assert len(texts) == (rows + 1) * (columns + 1)
    assert texts[0] == f"{100 * found.pairs.iloc[0, 0]:z.1f}"
    assert texts[-1] == f"{100 * found.score:z.1f}"
