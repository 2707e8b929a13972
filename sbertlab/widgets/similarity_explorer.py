"""`SimilarityExplorer`: type sentences, see how alike a model finds them, and why, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets
import numpy as np
import pandas as pd

from sbertlab import plots
from sbertlab.analysis.explain import Explanation, explain
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.plots.analysis import explanation_figure
from sbertlab.plots.style import Figure
from sbertlab.util import cos_sim
from sbertlab.widgets.panel import Panel, control, escaped, message, picture_of, row, table

MOST_TEXTS = 24
"""A matrix of more texts than these cannot be read."""


class SimilarityExplorer(Panel):
    """Sentences, one a line; the matrix of their cosines; and for two of them, the share of each pair of tokens.

    Args:
        model: the encoder.
        texts: sentences to begin with, at least 2.
        theme: "light" or "dark".

    Raises:
        TypeError: the model is no SentenceTransformer, whose tokens are needed to explain anything.
        ValueError: fewer than 2 texts, or too many.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        texts: Sequence[str] = ("Where is my parcel?", "My order has not arrived.", "I want my money back."),
        *,
        theme: str = "light",
    ) -> None:
        if not isinstance(model, SentenceTransformer):
            raise TypeError(f"model must be a SentenceTransformer of sbertlab, got {type(model).__name__}")
        self.model = model
        self.texts: list[str] = []
        self.similarities = np.zeros((0, 0))
        self.explanation: Explanation | None = None
        self._typed = control(
            ipywidgets.Textarea,
            "Sentences, one a line",
            value="\n".join(texts),
            rows=6,
            continuous_update=False,
            layout={"width": "98%", "height": "8em"},
        )
        show = control(ipywidgets.Button, "Compare", tooltip="Embed the sentences and compare them")
        self._first = control(ipywidgets.Dropdown, "Explain")
        self._second = control(ipywidgets.Dropdown, "with")
        own_size = {"max_width": "100%", "align_self": "flex-start"}  # a column would stretch a picture to its width
        self._matrix, self._tokens = (ipywidgets.Image(format="png", layout=own_size) for _ in range(2))
        self._words = ipywidgets.HTML()
        self._changing = False
        super().__init__(
            [self._typed, row(show), self._matrix, row(self._first, self._second), self._words, self._tokens], theme
        )
        self.compare(texts)
        typed = self.guarded(lambda change: self.compare(self._typed.value.splitlines()))
        self._typed.observe(typed, names="value")
        show.on_click(typed)
        for menu in (self._first, self._second):
            menu.observe(self.guarded(lambda change: self._explain()), names="value")

    def compare(self, texts: Sequence[str]) -> None:
        """Show other sentences; empty lines are left out.

        Raises:
            ValueError: fewer than 2 sentences, or more than `MOST_TEXTS`.
        """
        kept = [" ".join(str(text).split()) for text in texts]
        kept = [text for text in kept if text]
        if not 2 <= len(kept) <= MOST_TEXTS:
            found = "there is 1" if len(kept) == 1 else f"there are {len(kept)}"
            raise ValueError(f"type from 2 to {MOST_TEXTS} sentences, one a line; {found}")
        embeddings = self.model.encode(kept, convert_to_tensor=True, show_progress_bar=False)
        self.texts = kept
        self.similarities = cos_sim(embeddings, embeddings).float().cpu().numpy()
        self._matrix.value = picture_of(plots.similarity_heatmap(self.similarities, kept, theme=self.theme), self.theme)
        options = [(f"{number}  {text}"[:70], number - 1) for number, text in enumerate(kept, start=1)]
        self._changing = True
        try:
            self._first.options, self._second.options = options, options
            self._first.value, self._second.value = 0, 1
        finally:
            self._changing = False
        self._explain()

    def select(self, first: int, second: int) -> None:
        """Explain the pair of sentences with these numbers, counted from 0."""
        self._changing = True
        try:
            self._first.value, self._second.value = first, second
        finally:
            self._changing = False
        self._explain()

    def static(self) -> Figure:
        """The explanation of the chosen pair, as a matplotlib figure; the matrix where it cannot be explained."""
        if self.explanation is None:
            return plots.similarity_heatmap(self.similarities, self.texts, theme=self.theme)
        return explanation_figure(self.explanation, theme=self.theme)

    def __repr__(self) -> str:
        return f"SimilarityExplorer of {len(self.texts)} sentences"

    @property
    def _pair(self) -> tuple[str, str]:
        return self.texts[self._first.value], self.texts[self._second.value]

    def _explain(self) -> None:
        """Show why the chosen pair is alike, or why that cannot be said."""
        if self._changing:
            return
        a, b = self._pair
        self.explanation = None
        self._tokens.value, self._words.value = b"", ""
        try:
            self.explanation = explain(self.model, a, b)
        except ValueError as error:  # the matrix is still worth looking at
            self._words.value = message(str(error)).value
            return
        self._tokens.value = picture_of(explanation_figure(self.explanation, theme=self.theme), self.theme)
        strongest = self.explanation.strongest(6)
        shown = pd.DataFrame({"token": strongest["a"], "with": strongest["b"], "share": strongest["share"]})
        exact = "" if self.explanation.exact else " Not all of it belongs to tokens: see (rest)."
        sentence = f"cosine {self.explanation.score:.3f}, the sum over all pairs of tokens.{exact}"
        self._words.value = f"<p>{escaped(sentence)}</p>" + table(shown, "Strongest pairs")
