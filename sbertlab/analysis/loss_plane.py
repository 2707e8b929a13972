"""What a loss pushes where: its gradient on points of a plane, and the path of points under gradient descent.

Every point is a text, and the arrow at it is the negative gradient, the direction in which training would move it.
`SCENES` leaves out losses that need a second model, texts, weights of their own or a teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import getdoc
from typing import Any, NamedTuple

import numpy as np
import torch

from sbertlab import losses
from sbertlab.checks import check_choice
from sbertlab.losses.base import Loss
from sbertlab.losses.distance import BatchHardTripletLossDistanceFunction, cosine_distance, euclidean_distance
from sbertlab.util import cos_sim, pairwise_angle_sim, pairwise_cos_sim

DIRECTIONS_ONLY = (
    cos_sim,
    pairwise_cos_sim,
    pairwise_angle_sim,
    cosine_distance,
    BatchHardTripletLossDistanceFunction.cosine_distance,
)
"""Similarities and distances that ignore the length of a vector."""

STEEPEST = 1e6
"""A larger gradient is not a push but a singularity: a cosine at the centre."""


class Points(NamedTuple):
    """Texts as points `xy` `(rows, texts per row, dim)`, and one label per row if the loss takes labels."""

    xy: np.ndarray
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Push:
    """What a loss does to points: its value, and the negative gradient `arrows` at every point, `(rows, texts, dim)`.

    `roles` are those of the texts of a row. On a `circle` the loss reads directions only, so the unit circle shows it
    completely. `limits` `(rows,)` are the least distances of the negatives from their anchors, for a TripletLoss.
    """

    points: Points
    loss: float
    arrows: np.ndarray
    roles: tuple[str, ...]
    circle: bool
    limits: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Lengths of the arrows, `(rows, texts)`."""
        return np.linalg.norm(self.arrows, axis=-1)


def push(loss: Loss, points: Points) -> Push:
    """Return the value of a loss and its negative gradient at every point, in float64.

    >>> pair = Points(np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([1.0]))  # at right angles; cosine wanted: 1
    >>> push(losses.CosineSimilarityLoss(), pair).arrows.tolist()  # -2 (0 - 1) times the direction of the other
    [[[0.0, 2.0], [2.0, 0.0]]]
    """
    columns = [torch.tensor(column, dtype=torch.float64, requires_grad=True) for column in points.xy.swapaxes(0, 1)]
    labels = None if points.labels is None else torch.as_tensor(points.labels)
    value = loss.compute(columns, labels)
    gradients = torch.autograd.grad(value, columns) if value.requires_grad else [torch.zeros_like(c) for c in columns]
    arrows = -torch.stack([*gradients], dim=1).numpy() + 0.0  # no negative zeros
    if not np.isfinite(arrows).all() or np.abs(arrows).max() > STEEPEST:
        raise ValueError("a point at the centre has no direction and so no cosine; move it away from there")
    limits = None
    if isinstance(loss, losses.TripletLoss) and loss.distance_metric is euclidean_distance:
        limits = np.linalg.norm(points.xy[:, 0] - points.xy[:, 1], axis=-1) + loss.triplet_margin
    return Push(points, value.item(), arrows, roles(loss, len(columns)), reads_directions(loss), limits)


def descend(loss: Loss, points: Points, steps: int = 60, rate: float = 0.3, reach: float = 0.05) -> list[Push]:
    """Return the path of points under gradient descent, `steps + 1` pushes from the start.

    A step is `rate * arrow`, scaled down for all points if one would move farther than `reach`, as gradient clipping
    does. Under a loss that reads directions only, points keep their distance from the centre.

    >>> triplet = Points(np.array([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.5]]]))
    >>> [round(seen.loss, 3) for seen in descend(losses.TripletLoss(triplet_margin=1.0), triplet, steps=2)]
    [0.5, 0.359, 0.218]
    """
    path = [push(loss, points)]
    for _ in range(steps):
        here, moves = path[-1], rate * path[-1].arrows
        farthest = np.linalg.norm(moves, axis=-1).max()
        if farthest:
            xy = here.points.xy + moves * min(1, reach / farthest)
            if here.circle:
                before, after = (np.linalg.norm(each, axis=-1, keepdims=True) for each in (here.points.xy, xy))
                xy *= before / after
            here = push(loss, Points(xy, here.points.labels))
        path.append(here)
    return path


def projected(path: Sequence[Push], directions: np.ndarray, center: np.ndarray | None = None) -> list[Push]:
    """Return pushes of a larger space as they look on the plane of two orthonormal directions `(2, dim)`.

    `center` `(dim,)` is the point at the centre of the plane.

    >>> far = push(losses.CosineSimilarityLoss(), Points(np.eye(3)[None, 1:], np.array([1.0])))
    >>> projected([far], np.eye(3)[:2])[0].arrows.tolist()
    [[[0.0, 0.0], [0.0, 2.0]]]
    """
    center = np.zeros(directions.shape[1]) if center is None else center
    flat = []
    for seen in path:
        points = Points((seen.points.xy - center) @ directions.T, seen.points.labels)
        flat.append(replace(seen, points=points, arrows=seen.arrows @ directions.T, circle=False, limits=None))
    return flat


def roles(loss: Loss, columns: int) -> tuple[str, ...]:
    """Return the role of each text of a row.

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
    """Return whether the loss ignores the length of the vectors.

    >>> reads_directions(losses.TripletLoss()), reads_directions(losses.ContrastiveLoss())
    (False, True)
    """
    metric = getattr(loss, "distance_metric", getattr(loss, "similarity_fct", None))
    return metric in DIRECTIONS_ONLY or isinstance(loss, (losses.CosineSimilarityLoss, losses.MegaBatchMarginLoss))


class Slider(NamedTuple):
    """A number to set: its start and range, on a logarithmic scale with `factors`."""

    start: float
    low: float
    high: float
    factors: bool = False


class Scene(NamedTuple):
    """A loss for the plane: its class, the points to start from, and the arguments that can be set."""

    loss: type[Loss]
    points: Points
    sliders: Mapping[str, Slider]

    @property
    def watch(self) -> str:
        """What the loss wants, in one line."""
        return (getdoc(self.loss) or "").partition("\n")[0]

    def make(self, **settings: float) -> Loss:
        """Return the loss with the given settings, the others at the start of their sliders."""
        return self.loss(None, **{name: slider.start for name, slider in self.sliders.items()} | settings)

    def scattered(self, seed: int) -> Points:
        """Return the rows of the scene at random places on the circle or on the plane around 0."""
        random, shape = np.random.default_rng(seed), self.points.xy.shape
        if reads_directions(self.make()):
            return Points(on_circle(random.uniform(0, 360, shape[:-1])), self.points.labels)
        return Points(random.uniform(-1.5, 1.5, shape), self.points.labels)


def on_circle(degrees: Any) -> np.ndarray:
    """Return points of the unit circle, `(...,)` to `(..., 2)`; 0 degrees is on the right, 90 at the top.

    >>> on_circle([0, 90]).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    angles = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


PAIRS = Points(on_circle([[105, 150], [35, 84], [255, 320]]))
"""Three (anchor, positive); the first anchor is nearer to the second positive than to its own."""

_X = [[-1.2, -0.55, -1.55], [0.95, 1.4, 0.15], [-0.1, 0.3, -1.75]]
_Y = [[0.55, 0.95, 0.1], [0.75, 0.35, 0.2], [-0.9, -1.25, -1.0]]
TRIPLETS = Points(np.stack([_X, _Y], axis=-1))
"""Three (anchor, positive, negative): the negative nearer than the positive, a little farther, and far away."""

LABELLED = Points(on_circle([[95, 140], [20, 62], [200, 222], [285, 345]]), np.array([1, 1, 0, 0]))
"""Two pairs that belong together, one wide and one narrow, and two that do not."""

SCORED = Points(on_circle([[100, 160], [20, 45], [210, 290]]), np.array([0.9, 0.5, 0.1]))
"""Three pairs with scores; the pair of score 0.9 is wider than that of 0.5."""

CLASSED = Points(
    np.array([[-1.2, 0.7], [-0.5, 1.0], [0.45, 0.35], [1.15, 0.75], [0.85, -0.3], [-0.35, -0.2]])[:, None],
    np.array([0, 0, 0, 1, 1, 1]),
)
"""Six texts of two classes; one text of each class lies among the others."""

_TEXTS = Points(on_circle([20, 50, 65, 110, 190, 215])[:, None])
_SCALE = {"scale": Slider(20, 1, 100, factors=True)}
_SHORT, _LONG = {"margin": Slider(0.5, 0, 2)}, {"margin": Slider(1.0, 0, 3)}
_MARGINS = {"positive_margin": Slider(0.8, 0, 1), "negative_margin": Slider(0.3, 0, 1)}

SCENES: dict[str, Scene] = {
    scene.loss.__name__: scene
    for scene in (
        Scene(losses.MultipleNegativesRankingLoss, PAIRS, _SCALE),
        Scene(losses.MultipleNegativesSymmetricRankingLoss, PAIRS, _SCALE),
        Scene(losses.MegaBatchMarginLoss, PAIRS, _MARGINS),
        Scene(losses.ContrastiveTensionLossInBatchNegatives, _TEXTS, _SCALE),
        Scene(losses.TripletLoss, TRIPLETS, {"triplet_margin": Slider(1.0, 0, 3)}),
        Scene(losses.ContrastiveLoss, LABELLED, _SHORT),
        Scene(losses.OnlineContrastiveLoss, LABELLED, _SHORT),
        Scene(losses.CosineSimilarityLoss, SCORED, {}),
        Scene(losses.CoSENTLoss, SCORED, _SCALE),
        Scene(losses.AnglELoss, SCORED, _SCALE),
        Scene(losses.BatchHardTripletLoss, CLASSED, _LONG),
        Scene(losses.BatchHardSoftMarginTripletLoss, CLASSED, {}),
        Scene(losses.BatchSemiHardTripletLoss, CLASSED, _LONG),
        Scene(losses.BatchAllTripletLoss, CLASSED, _LONG),
    )
}
"""The losses that can be shown on a plane, by name."""


def scene(name: str) -> Scene:
    """Return the scene of a loss; a ValueError lists the losses that have one."""
    check_choice("a loss for the plane", name, SCENES)
    return SCENES[name]
