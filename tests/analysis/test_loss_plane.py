"""What losses push where: gradients, the way down, and what scale and margin do; the figures that show it."""

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime

from sbertlab import losses
from sbertlab.analysis.loss_plane import PAIRS, SCENES, SCORED, TRIPLETS, Points, descend, projected, push, roles, scene

plots = pytest.importorskip("sbertlab.plots.losses", reason="the lab extra is not installed", exc_type=ImportError)

every_scene = pytest.mark.parametrize("name", SCENES)


@every_scene
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_arrows_are_the_negative_gradient_by_finite_differences(name, seed):
    there = scene(name)
    points = there.points if seed is None else there.scattered(seed)
    loss, seen = there.make(), push(there.make(), points)

    def value(flat):
        return push(loss, Points(flat.reshape(points.xy.shape), points.labels)).loss

    wanted = -approx_fprime(points.xy.ravel(), value, 1e-7).reshape(points.xy.shape)
    assert np.abs(seen.arrows).max() > 0.01, "a comparison of nothing"
    assert seen.arrows == pytest.approx(wanted, abs=1e-4 * max(1, np.abs(wanted).max()))


@every_scene
def test_a_loss_on_the_circle_pushes_along_it_and_reads_no_lengths(name):
    there = scene(name)
    for points in (there.points, there.scattered(3)):
        seen = push(there.make(), points)
        outward = np.abs((seen.arrows * points.xy).sum(axis=-1)).max()
        longer = push(there.make(), Points(3 * points.xy, points.labels)).loss
        assert seen.circle == (outward < 1e-9)
        assert seen.circle == (longer == pytest.approx(seen.loss, abs=1e-9))


def test_a_negative_beyond_the_margin_gets_no_arrow():
    for margin, pushed in ((0.0, [True, False, False]), (1.0, [True, True, False]), (3.0, [True, True, True])):
        seen = push(losses.TripletLoss(triplet_margin=margin), TRIPLETS)
        far = np.linalg.norm(TRIPLETS.xy[:, 0] - TRIPLETS.xy[:, 2], axis=-1)
        assert (far < seen.limits).tolist() == pushed
        for column in range(3):
            assert seen.lengths[:, column].astype(bool).tolist() == pushed


def test_the_order_losses_see_the_order_of_the_scores_and_nothing_else():
    other = Points(SCORED.xy, np.array([0.99, 0.2, 0.19]))
    for kind, same in ((losses.CoSENTLoss, True), (losses.AnglELoss, True), (losses.CosineSimilarityLoss, False)):
        assert np.allclose(push(kind(), SCORED).arrows, push(kind(), other).arrows) is same


@every_scene
@pytest.mark.parametrize("end", ["start", "low", "high"])
def test_descent_lowers_the_loss(name, end):
    there = scene(name)
    loss = there.make(**{key: getattr(slider, end) for key, slider in there.sliders.items()})
    way = descend(loss, there.points, 100)
    assert len(way) == 101
    assert way[-1].loss < 0.9 * way[0].loss or way[0].loss == way[0].lengths.max() == 0
    steps = np.linalg.norm(np.diff([seen.points.xy for seen in way], axis=0), axis=-1)
    assert steps.max() < 0.05 + 1e-9
    if way[0].circle:
        assert np.linalg.norm(way[-1].points.xy, axis=-1) == pytest.approx(1)


def test_a_step_is_plain_gradient_descent():
    loss = losses.TripletLoss(triplet_margin=1.0)
    _, there = descend(loss, TRIPLETS, steps=1, rate=0.01)
    assert there.points.xy == pytest.approx(TRIPLETS.xy + 0.01 * push(loss, TRIPLETS).arrows)


def test_projected_arrows_are_those_of_the_space_as_the_plane_sees_them():
    random = np.random.default_rng(0)
    loss = losses.MultipleNegativesRankingLoss()
    way = descend(loss, Points(random.normal(size=(4, 2, 10))), 2)
    plane = np.linalg.qr(random.normal(size=(10, 2)))[0].T
    flat = projected(way, plane, center=np.ones(10))
    assert [seen.loss for seen in flat] == [seen.loss for seen in way]
    assert flat[1].arrows == pytest.approx(way[1].arrows @ plane.T)
    assert flat[1].points.xy == pytest.approx((way[1].points.xy - 1) @ plane.T)
    assert not flat[1].circle
    assert np.all(flat[0].lengths <= way[0].lengths)


@every_scene
def test_the_points_of_a_scene_are_data_that_the_loss_takes(name):
    there = scene(name)
    rows, columns, _ = there.points.xy.shape
    labels = None if there.points.labels is None else torch.as_tensor(there.points.labels)
    there.make().check_batch([["text"] * rows] * columns, labels)
    assert len(roles(there.make(), columns)) == columns
    for key, slider in there.sliders.items():
        assert slider.low <= slider.start <= slider.high
        assert getattr(there.make(**{key: slider.high}), key, slider.high) == slider.high
    assert there.scattered(1).xy.shape == there.points.xy.shape
    assert np.array_equal(there.scattered(1).xy, there.scattered(1).xy)
    assert there.watch


def test_a_mistake_is_told_in_words():
    with pytest.raises(ValueError, match="at the centre has no direction"):
        push(losses.CosineSimilarityLoss(), Points(np.array([[[0.0, 0.0], [1.0, 0.0]]]), np.array([1.0])))
    with pytest.raises(ValueError, match="TripletLoss takes the embeddings of 3 columns, got 2"):
        push(losses.TripletLoss(), PAIRS)
    with pytest.raises(
        ValueError, match=r"a loss for the plane must be one of 'MultipleNegatives.*, got 'SoftmaxLoss'"
    ):
        scene("SoftmaxLoss")


def written(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def drawn_arrows(axes):
    """From where to where each arrow goes, `(arrows, 2, 2)`."""
    (arrows,) = axes.collections
    starts = arrows.get_offsets()
    return np.stack([starts, starts + np.stack([arrows.U, arrows.V], axis=1)], axis=1)


def test_arrows_are_drawn_to_the_scale_that_is_told():
    way = descend(losses.TripletLoss(triplet_margin=1.0), TRIPLETS, 5)
    figure = plots.push_figure({"one": way}, title="Triplets")
    arrows = drawn_arrows(figure.axes[0])
    seen = way[0]
    pushed = seen.lengths > 0
    drawn = arrows[:, 1] - arrows[:, 0]
    assert arrows[:, 0] == pytest.approx(seen.points.xy[pushed])
    ratio = np.linalg.norm(drawn, axis=-1) / seen.lengths[pushed]
    assert ratio == pytest.approx(ratio[0])
    assert drawn / ratio[0] == pytest.approx(seen.arrows[pushed])
    assert f"loss {seen.loss:.3g}   longest arrow: gradient {seen.lengths.max():.2g}" in written(figure)
    legend = {"anchor", "positive", "negative", "the negative must be outside", "path of gradient descent"}
    assert legend <= written(figure)
