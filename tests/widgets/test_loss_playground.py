"""`LossPlayground`: menu, sliders and buttons act on the points."""

import numpy as np
import pytest

from sbertlab.analysis.loss_plane import SCENES, TRIPLETS, descend, push, scene
from sbertlab.widgets import LossPlayground


@pytest.mark.parametrize("name", SCENES)
def test_the_menu_changes_the_loss_its_sliders_and_its_points(name):
    panel = LossPlayground("BatchAllTripletLoss" if name == "CoSENTLoss" else "CoSENTLoss")
    panel._menu.value = name
    there = scene(name)
    assert type(panel.loss) is there.loss
    assert [made.description for made in panel._sliders.children] == [key.replace("_", " ") for key in there.sliders]
    assert panel.push.loss == push(there.make(), there.points).loss
    assert bytes(panel._image.value).startswith(b"\x89PNG")
    assert panel.problem == ""


def test_buttons_step_descend_start_again_and_scatter(controls):
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
    places = [TRIPLETS.xy]
    for _ in range(2):
        controls(panel)["Scatter"].click()
        assert not np.allclose(panel.push.points.xy, places[-1])
        places.append(panel.push.points.xy)
    panel.scatter(0)
    assert np.array_equal(panel.push.points.xy, places[1])


def test_a_slider_moves_the_setting_and_not_the_points(controls):
    panel = LossPlayground("TripletLoss")
    controls(panel)["Descend"].click()
    before = panel.push
    controls(panel)["triplet margin"].value = 2.5
    assert panel.loss.triplet_margin == 2.5
    assert panel.push.points.xy == pytest.approx(before.points.xy)
    assert panel.push.loss > before.loss
    assert len(panel.way) == 1, "a new way begins"
    panel.set(triplet_margin=0.5)
    assert controls(panel)["triplet margin"].value == 0.5


def test_scale_goes_by_factors_and_may_be_set_beyond_its_slider(controls):
    panel = LossPlayground(scale=1)
    controls(panel)["scale"].value = 10.0
    assert panel.loss.scale == pytest.approx(10)
    panel.set(scale=500)
    assert panel.loss.scale == 500
    assert controls(panel)["scale"].value == pytest.approx(100)


def test_the_picture_shows_what_the_panel_shows():
    panel = LossPlayground("MegaBatchMarginLoss", theme="dark", negative_margin=0.1)
    panel.step(3)
    assert repr(panel) == f"LossPlayground: MegaBatchMarginLoss, loss {panel.push.loss:.3g} after 3 steps"
    texts = panel.static().findobj(lambda artist: hasattr(artist, "get_text"))
    shown = {" ".join(text.get_text().split()) for text in texts}
    assert "MegaBatchMarginLoss, positive margin 0.8, negative margin 0.1" in shown
    assert "It takes rows of anchor, positive, with no labels." in panel._state.value
