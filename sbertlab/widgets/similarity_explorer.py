"""`SimilarityExplorer`: type sentences, see how similar a model finds them, and why, token by token."""

from collections.abc import Sequence

import ipywidgets
import numpy as np

from sbertlab import plots
from sbertlab.analysis.explain import Explanation, explain
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.plots.analysis import explanation_figure
from sbertlab.plots.style import Figure
from sbertlab.util import cos_sim
from sbertlab.widgets.panel import Panel, alert, control, escaped, picture_box, row, table

MOST_TEXTS = 24
"""A matrix of more texts than this is unreadable."""

EXAMPLES = ("Where is my parcel?", "My order has not arrived.", "I want my money back.")


class SimilarityExplorer(Panel):
    """The cosine similarities of 2 to 24 sentences, and the contribution of each pair of tokens to one of them.

    `model` must be a SentenceTransformer, whose tokens an explanation needs.
    """

    def __init__(self, model: SentenceTransformer, texts: Sequence[str] = EXAMPLES, *, theme: str = "light") -> None:
        super().__init__(theme=theme)
        self.model = model
        self.texts: list[str] = []
        self.similarities = np.zeros((0, 0))
        self.explanation: Explanation | None = None
        size = {"layout": {"width": "98%", "height": "8em"}, "continuous_update": False}
        self._typed = control(ipywidgets.Textarea, "Sentences, one per line", value="\n".join(texts), **size)
        self._first = control(ipywidgets.Dropdown, "Explain")
        self._second = control(ipywidgets.Dropdown, "with")
        self._matrix, self._tokens, self._words = picture_box(), picture_box(), ipywidgets.HTML()
        show = self.button("Compare", lambda: self.compare(self._typed.value.splitlines()))
        self.add(self._typed, row(show), self._matrix)
        self.add(row(self._first, self._second), self._words, self._tokens)
        self.compare(texts)
        for menu in (self._first, self._second):
            self.on_change(menu, lambda number: self._explain())

    def compare(self, texts: Sequence[str]) -> None:
        """Show other sentences, from 2 to `MOST_TEXTS`; empty lines are left out."""
        texts = list(filter(None, (" ".join(text.split()) for text in texts)))
        if not 2 <= len(texts) <= MOST_TEXTS:
            raise ValueError(f"type from 2 to {MOST_TEXTS} sentences, one per line; got {len(texts)}")
        embeddings = self.model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        self.texts = texts
        self.similarities = cos_sim(embeddings, embeddings).float().cpu().numpy()
        self._matrix.value = self.picture(self._heatmap())
        with self.silently():
            for menu in (self._first, self._second):
                menu.options = [(f"{number}  {text}"[:70], number - 1) for number, text in enumerate(texts, start=1)]
        self.select(0, 1)

    def select(self, first: int, second: int) -> None:
        """Explain the pair of sentences with these numbers, counted from 0."""
        with self.silently():
            self._first.value, self._second.value = first, second
        self._explain()

    def static(self) -> Figure:
        """The explanation of the chosen pair as a matplotlib figure, or the matrix if there is no explanation."""
        return explanation_figure(self.explanation, theme=self.theme) if self.explanation else self._heatmap()

    @property
    def _pair(self) -> tuple[str, str]:
        return self.texts[self._first.value], self.texts[self._second.value]

    def _heatmap(self) -> Figure:
        return plots.similarity_heatmap(self.similarities, self.texts, theme=self.theme)

    def _explain(self) -> None:
        """Show why the chosen pair is similar, or why that cannot be explained."""
        self.explanation, self._tokens.value = None, b""
        try:
            self.explanation = explain(self.model, *self._pair)
        except ValueError as error:  # the matrix stays
            self._words.value = alert(str(error))
            return
        self._tokens.value = self.picture()
        rest = "" if self.explanation.exact else " Part of it belongs to no token: see (rest)."
        sentence = f"cosine {self.explanation.score:.3f}, the sum over all pairs of tokens.{rest}"
        shown = self.explanation.strongest(6).rename(columns={"a": "token", "b": "with"})
        self._words.value = escaped(sentence, "p") + table(shown, "Strongest pairs")
