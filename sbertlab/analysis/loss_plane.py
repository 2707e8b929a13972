"""What a loss pushes where: its gradient on points of a plane, and the way that points take under it.

A loss is mathematics on embeddings, so two-dimensional embeddings show it whole: every point is a text, and the arrow
at it is the negative gradient, the direction in which training would move that text. `SCENES` holds the losses for
which the plane says something, with points to start from. Left out are those that need a second model or texts
(GISTEmbedLoss, DenoisingAutoEncoderLoss), that train weights besides the encoder (SoftmaxLoss), or that copy a teacher
(MSELoss, MarginMSELoss, DistillKLDivLoss); `loss_table` has them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from sbertlab import losses
from sbertlab.losses.base import LABELS, Loss
from sbertlab.losses.distance import BatchHardTripletLossDistanceFunction, cosine_distance, euclidean_distance
from sbertlab.util import cos_sim, pairwise_angle_sim, pairwise_cos_sim

DIRECTIONS_ONLY = (
    cos_sim,
    pairwise_cos_sim,
    pairwise_angle_sim,
    cosine_distance,
    BatchHardTripletLossDistanceFunction.cosine_distance,
)
"""Similarities and distances that do not read how long a vector is."""

STEEPEST = 1e6
"""A gradient beyond this is no push but the edge of the formula: a cosine at the centre."""


@dataclass(frozen=True)
class Points:
    """Texts as points, a row of the data a row.

    Args:
        xy: `(rows, columns, dim)`, one column a text of the row; dim is 2 on the plane.
        labels: one a row, as the loss wants them; None where it wants none.

    Raises:
        ValueError: another shape, a number that is not finite, or labels of another length.
    """

    xy: np.ndarray
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        xy = np.asarray(self.xy, dtype=np.float64)
        if xy.ndim != 3 or not xy.size:
            raise ValueError(f"points must have the shape (rows, columns, 2) and be at least one, got {xy.shape}")
        if not np.isfinite(xy).all():
            raise ValueError(f"points must be finite, got {np.count_nonzero(~np.isfinite(xy))} NaN or infinite numbers")
        labels = None if self.labels is None else np.asarray(self.labels)
        if labels is not None and labels.shape != xy.shape[:1]:
            raise ValueError(f"labels must be one a row, got the shape {labels.shape} for {len(xy)} rows")
        object.__setattr__(self, "xy", xy)
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True)
class Push:
    """What a loss does to points.

    Attributes:
        points: where they are.
        loss: value of the loss.
        arrows: negative gradient at every point, `(rows, columns, dim)`.
        roles: what each column is: anchor, positive, negative 1, ...; a, b; or text.
        circle: whether the loss reads directions only, so that nothing is lost on the unit circle.
        limits: of a TripletLoss, how far from its anchor each row's negative must be, `(rows,)`; else None.
    """

    points: Points
    loss: float
    arrows: np.ndarray
    roles: tuple[str, ...]
    circle: bool
    limits: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """How strongly each point is pushed, `(rows, columns)`."""
        return np.linalg.norm(self.arrows, axis=-1)


def push(loss: Loss, points: Points) -> Push:
    """The value of a loss on points, and its negative gradient, in float64.

    Args:
        loss: any loss of `sbertlab.losses` that `compute` alone can tell.
        points: those to push.

    Raises:
        ValueError: rows or labels that do not fit the loss, or a point at the centre, which has no direction.

    >>> pair = Points(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([1.0]))  # a, b at right angles; cosine wanted: 1
    >>> push(losses.CosineSimilarityLoss(), pair).arrows.tolist()  # -2 (0 - 1) times the direction of the other one
    [[[0.0, 2.0], [2.0, 0.0]]]
    """
    columns = [torch.tensor(column, requires_grad=True) for column in points.xy.swapaxes(0, 1)]
    labels = None if points.labels is None else torch.as_tensor(points.labels)
    value = loss.compute(columns, labels)
    gradients = torch.autograd.grad(value, columns) if value.requires_grad else [torch.zeros_like(c) for c in columns]
    arrows = -torch.stack([*gradients], dim=1).numpy() + 0.0  # without the minus of zeros
    if not np.isfinite(arrows).all() or np.abs(arrows).max() > STEEPEST:
        raise ValueError("a point at the centre has no direction and so no cosine; move it away from there")
    return Push(points, value.item(), arrows, roles(loss, len(columns)), reads_directions(loss), _limits(loss, points))


def descend(loss: Loss, points: Points, steps: int = 60, rate: float = 0.3, reach: float = 0.05) -> list[Push]:
    """The way of points under plain gradient descent on the points themselves.

    A step is `rate * arrow`, shorter for all points alike where one would go farther than `reach`, as training clips
    gradients. Under a loss that reads directions only, points keep their distance from the centre, as behind a
    Normalize block: that changes no value.

    Args:
        loss: as in `push`.
        points: where they start.
        steps: how many.
        rate: learning rate.
        reach: farthest that a point goes in a step.

    Returns:
        steps + 1 pushes, the first one at the start.

    >>> triplet = Points(np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]]]))
    >>> way = descend(losses.TripletLoss(triplet_margin=1.0), triplet, steps=2)
    >>> [round(moment.loss, 3) for moment in way]
    [0.5, 0.359, 0.218]

    The positive comes nearer by 0.035 a step, the negative goes as far, and the anchor, pulled by the one and pushed by
    the other at right angles, moves 0.05: 0.035 towards the one and 0.035 away from the other.
    """
    way = [push(loss, points)]
    for _ in range(steps):
        way.append(_step(loss, way[-1], rate, reach))
    return way


def projected(way: Sequence[Push], directions: np.ndarray, center: np.ndarray | None = None) -> list[Push]:
    """Points and arrows of a larger space as they look on a plane in it, such as that of the first two components.

    Args:
        way: pushes of `(rows, columns, dim)`.
        directions: two orthonormal directions, `(2, dim)`.
        center: what lies at the centre of the plane, `(dim,)`.

    >>> far = push(losses.CosineSimilarityLoss(), Points(np.eye(3)[None, 1:], np.array([1.0])))
    >>> projected([far], np.eye(3)[:2])[0].arrows.tolist()
    [[[0.0, 0.0], [0.0, 2.0]]]
    """
    directions = np.asarray(directions, dtype=np.float64)
    center = np.zeros(directions.shape[1]) if center is None else center
    return [
        replace(
            seen,
            points=Points((seen.points.xy - center) @ directions.T, seen.points.labels),
            arrows=seen.arrows @ directions.T,
            circle=False,
            limits=None,
        )
        for seen in way
    ]


def roles(loss: Loss, columns: int) -> tuple[str, ...]:
    """What each text of a row is to the loss.

    >>> roles(losses.TripletLoss(), 3), roles(losses.CoSENTLoss(), 2), roles(losses.BatchAllTripletLoss(), 1)
    (('anchor', 'positive', 'negative'), ('a', 'b'), ('text',))
    """
    if columns == 1:
        return ("text",)
    if loss.label not in ("none", "scores"):
        return tuple("abcdefgh"[:columns])
    negatives = ("negative",) if columns == 3 else tuple(f"negative {number}" for number in range(1, columns - 1))
    return ("anchor", "positive", *negatives)


def reads_directions(loss: Loss) -> bool:
    """Whether longer or shorter vectors make no difference to the loss.

    >>> reads_directions(losses.TripletLoss()), reads_directions(losses.ContrastiveLoss())
    (False, True)
    """
    metric = getattr(loss, "distance_metric", getattr(loss, "similarity_fct", None))
    return metric in DIRECTIONS_ONLY or isinstance(loss, (losses.CosineSimilarityLoss, losses.MegaBatchMarginLoss))


@dataclass(frozen=True)
class Slider:
    """A number to set: where it starts, and from where to where it goes, by factors or not."""

    start: float
    low: float
    high: float
    factors: bool = False


SCALE = Slider(20, 1, 100, factors=True)


@dataclass(frozen=True)
class Scene:
    """A loss for the plane: points to start from, what can be set, and what to watch.

    Attributes:
        loss: its class; `columns` and `label` tell what data it takes.
        points: where to start.
        watch: what there is to see, in a sentence or two.
        sliders: arguments of the loss that can be moved.
        fixed: its other arguments.
    """

    loss: type[Loss]
    points: Points
    watch: str
    sliders: Mapping[str, Slider] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def make(self, **settings: float) -> Loss:
        """The loss with its sliders at `settings`, at their start where none is given.

        Raises:
            ValueError: a setting that the scene has no slider for, or that the loss refuses.
        """
        if unknown := sorted(set(settings) - set(self.sliders)):
            there = f"it has {list(self.sliders)}" if self.sliders else "it has none"
            raise ValueError(f"{self.loss.__name__} has no slider for {unknown}; {there}")
        chosen = {name: settings.get(name, slider.start) for name, slider in self.sliders.items()}
        return self.loss(None, **chosen, **self.fixed)

    def scattered(self, seed: int, points: Points | None = None) -> Points:
        """The rows of the scene, or of other points, at random places: on the circle, or on the plane around 0."""
        rows = points or self.points
        random, shape = np.random.default_rng(seed), rows.xy.shape
        if reads_directions(self.make()):
            return Points(on_circle(random.uniform(0, 360, shape[:-1])), rows.labels)
        return Points(random.uniform(-1.5, 1.5, shape), rows.labels)


def on_circle(degrees: Any) -> np.ndarray:
    """Points of the unit circle at these angles, `(...,)` to `(..., 2)`; 0 is on the right, 90 on top.

    >>> on_circle([0, 90]).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    angles = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


PAIRS = Points(on_circle([[105, 150], [35, 84], [255, 320]]))
"""Three (anchor, positive); the second positive lies nearer to the first anchor than the first positive does."""

TRIPLETS = Points(
    np.array(
        [
            [[-1.2, 0.55], [-0.55, 0.95], [-1.55, 0.1]],
            [[0.95, 0.75], [1.4, 0.35], [0.15, 0.2]],
            [[-0.1, -0.9], [0.3, -1.25], [-1.75, -1.0]],
        ]
    )
)
"""Three (anchor, positive, negative): the negative nearer than the positive, a little farther, and far away."""

LABELLED = Points(on_circle([[95, 140], [20, 62], [200, 222], [285, 345]]), np.array([1, 1, 0, 0]))
"""Two pairs that belong together, the one wide and the one narrow, and two that do not, likewise."""

SCORED = Points(on_circle([[100, 160], [20, 45], [210, 290]]), np.array([0.9, 0.5, 0.1]))
"""Three pairs with scores; the one of score 0.9 is wider apart than that of 0.5."""

CLASSED = Points(
    np.array([[-1.2, 0.7], [-0.5, 1.0], [0.45, 0.35], [1.15, 0.75], [0.85, -0.3], [-0.35, -0.2]])[:, None],
    np.array([0, 0, 0, 1, 1, 1]),
)
"""Six texts of two classes; one text of each class has strayed to the others."""

SCENES: dict[str, Scene] = {
    scene.loss.__name__: scene
    for scene in (
        Scene(
            losses.MultipleNegativesRankingLoss,
            PAIRS,
            "Each anchor pulls its own positive and pushes the other rows' positives away. A small scale pushes all of "
            "them, a large one only those that are nearer than the own one, or nearly so.",
            {"scale": SCALE},
        ),
        Scene(
            losses.MultipleNegativesSymmetricRankingLoss,
            PAIRS,
            "As MultipleNegativesRankingLoss, and each positive chooses among the anchors, too.",
            {"scale": SCALE},
        ),
        Scene(
            losses.MegaBatchMarginLoss,
            PAIRS,
            "Only the nearest foreign positive of each anchor is pushed. Pulling stops at the cosine positive_margin, "
            "pushing at negative_margin.",
            {"positive_margin": Slider(0.8, 0, 1), "negative_margin": Slider(0.3, 0, 1)},
        ),
        Scene(
            losses.ContrastiveTensionLossInBatchNegatives,
            Points(on_circle([20, 50, 65, 110, 190, 215])[:, None]),
            "Texts without any label: each stays itself and pushes all others away, until they lie evenly. "
            "(In training, dropout makes two views of each text; here there is one.)",
            {"scale": SCALE},
        ),
        Scene(
            losses.TripletLoss,
            TRIPLETS,
            "The negative must lie beyond the dashed ring: as far from the anchor as the positive, and the margin "
            "more. A row that keeps the margin gets no arrows at all.",
            {"triplet_margin": Slider(1.0, 0, 3)},
        ),
        Scene(
            losses.ContrastiveLoss,
            LABELLED,
            "Pairs labelled 1 are pulled together. Pairs labelled 0 are pushed apart, up to the margin (a cosine "
            "distance) and no farther.",
            {"margin": Slider(0.5, 0, 2)},
        ),
        Scene(
            losses.OnlineContrastiveLoss,
            LABELLED,
            "As ContrastiveLoss, but hard pairs only: those labelled 1 that are wider than the nearest labelled 0, and "
            "those labelled 0 that are nearer than the widest labelled 1.",
            {"margin": Slider(0.5, 0, 2)},
        ),
        Scene(
            losses.CosineSimilarityLoss,
            SCORED,
            "Every pair goes to the angle whose cosine is its score, whatever the other pairs do.",
        ),
        Scene(
            losses.CoSENTLoss,
            SCORED,
            "Only the order counts: pairs of a high score close, pairs of a low score open, until the order holds "
            "with room to spare.",
            {"scale": SCALE},
        ),
        Scene(
            losses.AnglELoss,
            SCORED,
            "CoSENT with another similarity. On a plane, which is one complex number, that is greatest when b is "
            "45 degrees on from a, not when they are equal.",
            {"scale": SCALE},
        ),
        Scene(
            losses.BatchHardTripletLoss,
            CLASSED,
            "Each text is pulled to the farthest of its class and pushed from the nearest of another.",
            {"margin": Slider(1.0, 0, 3)},
        ),
        Scene(
            losses.BatchHardSoftMarginTripletLoss,
            CLASSED,
            "As BatchHardTripletLoss without a margin: arrows fade as the classes part, and never quite vanish.",
        ),
        Scene(
            losses.BatchSemiHardTripletLoss,
            CLASSED,
            "For each pair of a class, the nearest negative that is farther than the positive: the very hardest "
            "negatives, which may be wrong labels, are left alone.",
            {"margin": Slider(1.0, 0, 3)},
        ),
        Scene(
            losses.BatchAllTripletLoss,
            CLASSED,
            "All triplets that break the margin, averaged.",
            {"margin": Slider(1.0, 0, 3)},
        ),
    )
}
"""The losses that can be shown on a plane, by name."""


def scene(name: str) -> Scene:
    """The scene of a loss.

    Raises:
        ValueError: a loss without one; the message names those that have one.
    """
    if name not in SCENES:
        raise ValueError(f"there are no points on a plane for {name!r}; choose from {', '.join(SCENES)}")
    return SCENES[name]


def loss_table() -> pd.DataFrame:
    """What every loss takes, read from the losses themselves.

    Returns:
        Index: name of the loss. Columns: texts (how many a row), label (what goes with a row), in_batch (whether the
        other rows' texts are its negatives), needs (what it wants besides embeddings), on_plane (whether it has a
        scene).

    >>> loss_table().loc["TripletLoss", ["texts", "label"]].tolist()
    ['3', 'no labels']
    """
    kinds = {getattr(losses, name) for name in losses.__all__ if isinstance(getattr(losses, name), type)}
    kinds = {kind for kind in kinds if issubclass(kind, Loss) and kind is not Loss}
    table = pd.DataFrame([_row(kind) for kind in kinds]).sort_values(["texts", "label", "loss"])
    return table.set_index("loss")


def _row(kind: type[Loss]) -> dict[str, object]:
    fewest, most = kind.columns
    wraps = kind.columns == (0, 0)  # a loss around another takes what that one takes
    texts = str(fewest) if fewest == most else f"{fewest} or more" if most is None else f"{fewest} to {most}"
    return {
        "loss": kind.__name__,
        "texts": "as the loss inside" if wraps else texts,
        "label": "as the loss inside" if wraps else LABELS[kind.label],
        "in_batch": kind.in_batch,
        "needs": "the texts" if kind.needs_texts else "two views" if kind.views == 2 else "",
        "on_plane": kind.__name__ in SCENES,
    }


def _step(loss: Loss, here: Push, rate: float, reach: float) -> Push:
    """Where the points are after one step."""
    moves = rate * here.arrows
    farthest = np.linalg.norm(moves, axis=-1).max()
    if farthest == 0:
        return here
    xy = here.points.xy + moves * min(1, reach / farthest)
    if here.circle:
        xy *= _norms(here.points.xy) / _norms(xy)
    return push(loss, Points(xy, here.points.labels))


def _norms(xy: np.ndarray) -> np.ndarray:
    return np.linalg.norm(xy, axis=-1, keepdims=True)


def _limits(loss: Loss, points: Points) -> np.ndarray | None:
    if not isinstance(loss, losses.TripletLoss) or loss.distance_metric is not euclidean_distance:
        return None
    anchors, positives = points.xy[:, 0], points.xy[:, 1]
    return np.linalg.norm(anchors - positives, axis=-1) + loss.triplet_margin
