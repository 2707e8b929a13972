"""`ProbeMap`: where the same few texts lie while a model is trained, on a plane that stays where it is."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA

from sbertlab.analysis.maps import FEWEST_POINTS
from sbertlab.encoder.sentence_transformer import SentenceTransformer, evaluating
from sbertlab.plots.style import THEMES, Figure, canvas, drawable, style
from sbertlab.training.probe import MOST_TEXTS, collapse_reason, space_metrics

COLORS = tuple(THEMES["light"].palette[index] for index in (0, 1, 2, 3, 6))
"""Those that have a contrast of 3 or more with a white and with a dark page: JupyterLab says nothing of its own."""


class ProbeMap:
    """Where some texts lie, again and again, on the plane in which they varied most at first.

    Args:
        texts: at least 3; of more than 512 every so many are taken.
        labels: one a text.

    Attributes:
        xy: `(texts, 2)`, the newest coordinates; None before there are any.
        first: the first ones.
        collapse: why the texts are told apart no longer; None while they are.
    """

    def __init__(self, texts: Iterable[str], labels: Iterable[Any] | None = None) -> None:
        if isinstance(texts, str) or not isinstance(texts, Iterable):
            raise TypeError(f"probe must be a list of texts, got {texts!r:.80}")
        given = list(texts)
        wrong = next((index for index, text in enumerate(given) if not isinstance(text, str)), None)
        if wrong is not None:
            raise TypeError(f"probe must be a list of strings, got {given[wrong]!r:.80} at position {wrong}")
        if len(given) < FEWEST_POINTS:
            raise ValueError(f"a map needs a probe of at least {FEWEST_POINTS} texts, got {len(given)}")
        groups = None if labels is None else [str(label) for label in labels]
        if groups is not None and len(groups) != len(given):
            raise ValueError(f"labels must be one a text of the probe, got {len(groups)} for {len(given)}")
        chosen = np.unique(np.linspace(0, len(given) - 1, min(len(given), MOST_TEXTS)).astype(int))
        self.texts = [given[index] for index in chosen]
        self.labels = [""] * len(chosen) if groups is None else [groups[index] for index in chosen]
        self.groups = list(dict.fromkeys(self.labels))
        self.reset()

    def reset(self) -> None:
        """Forget the plane."""
        self.xy: np.ndarray | None = None
        self.first: np.ndarray | None = None
        self.collapse: str | None = None
        self.problem = ""
        self.steps = (0, 0)
        self.shares = (0.0, 0.0)  # of the variance that the plane holds, at first and now
        self.reach = 0.0
        self._plane = np.zeros((0, 2))
        self._before: dict[str, float] = {}

    def update(self, model: SentenceTransformer, step: int) -> None:
        """Embed the texts and put them on the plane; draws no random numbers and leaves the model in its modes."""
        with torch.no_grad(), evaluating(model):
            rows = F.normalize(model.embed(self.texts).double(), dim=1).cpu()  # (texts, dim)
        metrics = space_metrics(rows)
        self._before = self._before or metrics
        self.collapse = collapse_reason(self._before, metrics)
        directions = rows.numpy()
        total = directions.var(axis=0).sum()
        self.problem = ""
        if not np.isfinite(total):
            self.problem = f"At step {step:,} the embeddings are not finite: there is nothing to draw."
            return
        if not self._plane.size:
            if total < 1e-12 or directions.shape[1] < 2:
                self.problem = f"At step {step:,} the embeddings are all equal, or of one dimension: they make no map."
                return
            self._plane = PCA(n_components=2, svd_solver="covariance_eigh").fit(directions).components_.T  # (dim, 2)
        xy = (directions - directions.mean(axis=0)) @ self._plane  # (texts, 2)
        share = float(xy.var(axis=0).sum() / max(total, 1e-12))
        if self.first is None:
            self.first, self.steps, self.shares = xy, (step, step), (share, share)
        self.xy, self.steps, self.shares = xy, (self.steps[0], step), (self.shares[0], share)
        self.reach = max(self.reach, 1.08 * float(np.abs(xy).max()))

    @property
    def caption(self) -> str:
        """What the axes are, in words."""
        (first, now), (then, held) = self.steps, self.shares
        return (
            f"{len(self.texts)} texts at step {now:,}, on the plane in which they varied most at step {first:,}: "
            f"{then:.0%} of their variance then, {held:.0%} now. One scale for both axes, from {-self.reach:.2f} to "
            f"{self.reach:.2f}."
        )

    def drawing(self, size: int = 260) -> str:
        """The newest map as SVG: hover shows the text."""
        if self.problem or self.xy is None:
            return f"<small>{html.escape(self.problem)}</small>"
        places = (self.xy * (1, -1) / self.reach + 1) * size / 2
        points = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{self.color(label)}">'
            f"<title>{html.escape(': '.join(filter(None, [label, text]))[:160])}</title></circle>"
            for (x, y), text, label in zip(places, self.texts, self.labels, strict=True)
        )
        names = [name for name in self.groups if name]
        legend = "".join(
            f'<span style="margin-right:10px"><span style="color:{self.color(name)}">●</span> '
            f"<bdi>{html.escape(name[:40])}</bdi></span>"
            for name in names[: len(COLORS)]
        ) + (f"and {len(names) - len(COLORS)} more, whose colours repeat" if len(names) > len(COLORS) else "")
        middle = size / 2
        cross = f'<path d="M0 {middle}H{size}M{middle} 0V{size}" stroke="currentColor" stroke-opacity=".2"/>'
        frame = f'<rect width="{size}" height="{size}" fill="none" stroke="currentColor" stroke-opacity=".35"/>'
        return (
            f'<div style="max-width:{size + 40}px"><svg width="{size}" height="{size}" role="img" '
            f'aria-label="{html.escape(self.caption)}">{frame}{cross}{points}</svg>'
            f'<div style="line-height:1.3"><small>{legend}<br>{html.escape(self.caption)}</small></div></div>'
        )

    def figure(self, theme: str = "light") -> Figure:
        """The first map and the newest side by side, on one scale.

        Raises:
            ValueError: there is none.
        """
        if self.xy is None or self.first is None:
            raise ValueError(f"there is no map yet. {self.problem}".rstrip())
        with style(theme) as colors:
            figure, panels = canvas(8.4, 4.3, "The probe on one plane", self.caption, columns=2, share=True)
            for axes, xy, step in zip(panels.flat, (self.first, self.xy), self.steps, strict=True):
                axes.set_title(f"after step {step:,}")
                axes.set(xlim=(-self.reach, self.reach), ylim=(-self.reach, self.reach), aspect="equal")
                for number, name in enumerate(self.groups):
                    where = np.array(self.labels) == name
                    color = colors.palette[number % len(COLORS)]
                    axes.scatter(*xy[where].T, s=9, color=color, alpha=0.75, linewidths=0, label=drawable(name, 30))
            if any(self.groups) and len(self.groups) <= len(COLORS):
                figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        return figure

    def color(self, label: str) -> str:
        """Of a group."""
        return COLORS[self.groups.index(label) % len(COLORS)]
