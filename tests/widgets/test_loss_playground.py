"""`LossPlayground`: menu, sliders and buttons act on the points; mistakes are shown as messages."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from sbertlab.analysis.loss_plane import SCENES, TRIPLETS, descend, push, scene

module = pytest.importorskip(
    "sbertlab.widgets.loss_playground", reason="the lab extra is not installed", exc_type=ImportError
)
LossPlayground = module.LossPlayground


def controls(panel: Any) -> dict[str, Any]:
    """Buttons, menu and sliders by their label."""
    found, waiting = {}, [panel]
    while waiting:
        widget = waiting.pop()
        waiting += getattr(widget, "children", ())
        if getattr(widget, "description", ""):
            found[widget.description] = widget
    return found


@pytest.mark.parametrize("name", SCENES)
def test_the_menu_changes_the_loss_its_sliders_and_its_points(name: str) -> None:
    panel = LossPlayground("BatchAllTripletLoss" if name == "CoSENTLoss" else "CoSENTLoss")
    panel._menu.value = name
    there = scene(name)
    assert panel.name == name
    assert type(panel.loss) is there.loss
    assert [made.description for made in panel._sliders.children] == [key.replace("_", " ") for key in there.sliders]
    assert panel.push.loss == push(there.make(), there.points).loss
    assert bytes(panel._image.value).startswith(b"\x89PNG")
    assert panel.problem == ""


def test_buttons_step_descend_and_start_again() -> None:
    panel = LossPlayground("TripletLoss")
    wanted = descend(panel.loss, TRIPLETS, 26)
    pictures = [panel._image.value]
    for name, steps in (("Step", 1), ("Descend", 26), ("Start again", 0)):
        controls(panel)[name].click()
        assert len(panel.way) == steps + 1
        assert panel.push.points.xy == pytest.approx(wanted[steps].points.xy)
        pictures.append(panel._image.value)
    assert len(set(pictures)) == 3
    assert pictures[-1] == pictures[0]
    assert panel.push.loss > wanted[-1].loss


def test_a_slider_moves_the_setting_and_not_the_points() -> None:
    panel = LossPlayground("TripletLoss")
    controls(panel)["Descend"].click()
    before = panel.push
    controls(panel)["triplet margin"].value = 2.5
    assert panel.settings == {"triplet_margin": 2.5}
    assert panel.loss.triplet_margin == 2.5
    assert panel.push.points.xy == pytest.approx(before.points.xy)
    assert panel.push.loss > before.loss
    assert len(panel.way) == 1, "a new way begins"
    panel.set(triplet_margin=0.5)
    assert controls(panel)["triplet margin"].value == 0.5


def test_scale_goes_by_factors_and_may_be_set_beyond_its_slider() -> None:
    panel = LossPlayground(scale=1)
    assert controls(panel)["scale"].value == 1
    controls(panel)["scale"].value = 10.0
    assert panel.loss.scale == pytest.approx(10)
    panel.set(scale=500)
    assert panel.loss.scale == 500
    assert controls(panel)["scale"].value == pytest.approx(100)


def test_scatter_puts_the_points_elsewhere_each_time() -> None:
    panel = LossPlayground("ContrastiveLoss")
    places = [panel.push.points.xy]
    for _ in range(2):
        controls(panel)["Scatter"].click()
        places.append(panel.push.points.xy)
        assert np.array_equal(panel.push.points.labels, scene("ContrastiveLoss").points.labels)
    assert not np.allclose(places[0], places[1])
    assert not np.allclose(places[1], places[2])
    panel.scatter(0)
    assert np.array_equal(panel.push.points.xy, places[1])


def test_own_points_leave_the_losses_that_take_them() -> None:
    panel = LossPlayground("TripletLoss", [[[0, 0.1], [1, 0], [0, 1]], [[2, 0.1], [2, 1], [1, 1]]])
    assert panel._menu.options == (
        "MultipleNegativesRankingLoss",
        "MultipleNegativesSymmetricRankingLoss",
        "TripletLoss",
    )
    panel._menu.value = "MultipleNegativesRankingLoss"
    assert panel.push.points.xy.shape == (2, 3, 2)
    controls(panel)["Scatter"].click()
    assert panel.push.points.xy.shape == (2, 3, 2)
    with pytest.raises(ValueError, match=r"loss must be one of .* got 'CoSENTLoss'"):
        panel.choose("CoSENTLoss")


@pytest.mark.parametrize(
    ("loss", "points", "labels", "said"),
    [
        ("TripletLoss", [[[0, 0], [1, 0]]], None, "takes the embeddings of 3 columns, got 2"),
        ("TripletLoss", [[[0, 0], [1, 0], [np.nan, 1]]], None, "got 1 NaN"),
        ("TripletLoss", [], None, "must have the shape (rows, texts, 2)"),
        ("CosineSimilarityLoss", [[[1, 0], [0, 1]]], None, "one number per row, got no labels"),
        ("CosineSimilarityLoss", [[[1, 0], [0, 1]]], [1.0, 2.0], "labels must be one per row"),
        ("CosineSimilarityLoss", [[[0, 0], [0, 1]]], [1.0], "at the centre has no direction"),
        ("CoSENTLoss", [[["a", "b"], [0, 1]]], [1.0], "could not convert"),
    ],
)
def test_points_that_do_not_fit_give_a_message_instead_of_the_panel(
    loss: str, points: Any, labels: Any, said: str
) -> None:
    panel = LossPlayground(loss, points, labels)
    assert said in panel.message
    assert 'role="alert"' in panel.children[0].value
    assert panel.picture().startswith(b"\x89PNG")
    assert repr(panel).startswith("LossPlayground: ")


def test_a_mistake_in_a_cell_is_an_error_and_one_in_a_control_a_message() -> None:
    with pytest.raises(ValueError, match=r"a loss for the plane must be one of .*'MSELoss'"):
        LossPlayground("MSELoss")
    with pytest.raises(ValueError, match="must be one of 'scale', got 'margin'"):
        LossPlayground("CoSENTLoss", margin=1)
    with pytest.raises(ValueError, match="theme must be"):
        LossPlayground(theme="pink")
    panel = LossPlayground("CosineSimilarityLoss")
    with pytest.raises(ValueError, match="slider of CosineSimilarityLoss"):
        panel.set(scale=3)
    panel.way = []
    controls(panel)["Step"].click()
    assert "IndexError" in panel.problem
    assert isinstance(panel.last_error, IndexError)


def test_the_picture_shows_what_the_panel_shows() -> None:
    panel = LossPlayground("MegaBatchMarginLoss", theme="dark", negative_margin=0.1)
    panel.step(3)
    bundle = panel._repr_mimebundle_()
    assert {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"} <= set(bundle)
    assert bundle["text/plain"] == f"LossPlayground: MegaBatchMarginLoss is {panel.push.loss:.3g} after 3 steps"
    shown = {
        " ".join(text.get_text().split()) for text in panel.static().findobj(lambda artist: hasattr(artist, "get_text"))
    }
    assert "MegaBatchMarginLoss, positive margin 0.8, negative margin 0.1" in shown
    assert "It takes rows of anchor, positive, with no labels." in panel._state.value


def test_every_control_has_a_label_and_a_tooltip_and_a_change_is_drawn_soon() -> None:
    panel = LossPlayground()
    assert set(controls(panel)) == {"Loss", "scale", "Step", "Descend", "Start again", "Scatter"}
    assert all(made.tooltip for made in controls(panel).values())
    panel.step()
    start = time.process_time()
    for _ in range(4):
        panel.step(25)
    assert (time.process_time() - start) / 4 < 1.0, "0.2 s on a free machine"
