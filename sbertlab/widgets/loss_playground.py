"""`LossPlayground`: points on a plane, a loss with its settings, and where it pushes the points."""

from typing import Any

import ipywidgets
import numpy as np

from sbertlab.analysis.loss_plane import SCENES, Push, Slider, descend, push, scene
from sbertlab.losses.base import LABELS, Loss
from sbertlab.plots.losses import descent_figure
from sbertlab.plots.style import Figure
from sbertlab.widgets.panel import Panel, control, escaped, picture_box, row

STRIDE = 25
"""Steps that "Descend" takes at once."""


class LossPlayground(Panel):
    """A menu of losses, sliders for their settings, and points that move down the gradient of the loss.

    "Step" takes one step of gradient descent, "Descend" 25. "Start again" puts the points back, "Scatter" puts them at
    random places. Moving a slider leaves the points where they are and starts a new path.

    `loss` is a name in `loss_plane.SCENES`, `settings` are initial values of its sliders. `way` has the pushes since
    the start, or since a slider was last moved.

    >>> playground = LossPlayground("TripletLoss", triplet_margin=0.0)
    >>> playground.push.arrows[2].any()  # the third negative is far enough
    np.False_
    >>> playground.set(triplet_margin=3.0)
    >>> playground.push.arrows[2].any()
    np.True_
    """

    def __init__(self, loss: str = "MultipleNegativesRankingLoss", *, theme: str = "light", **settings: float) -> None:
        super().__init__(theme=theme)
        self.way = list[Push]()
        self._seed = -1
        self._menu = control(ipywidgets.Dropdown, "Loss", options=list(SCENES))
        self._sliders = ipywidgets.VBox()
        self._advice, self._state = ipywidgets.HTML(), ipywidgets.HTML()
        self._image = picture_box("720px")
        buttons = row(
            self.button("Step", self.step),
            self.button("Descend", lambda: self.step(STRIDE)),
            self.button("Start again", self.reset),
            self.button("Scatter", lambda: self.scatter(self._seed + 1)),
        )
        self.add(self._menu, self._advice, self._sliders, buttons, self._state, self._image)
        self.on_change(self._menu, self.choose)
        self.choose(loss, **settings)

    @property
    def push(self) -> Push:
        """What the loss does to the points where they are now."""
        return self.way[-1]

    @property
    def loss(self) -> Loss:
        """The chosen loss with its settings."""
        return scene(self.name).make(**self.settings)

    def choose(self, name: str, **settings: float) -> None:
        """Show a loss of the menu, from its start."""
        there = scene(name)
        there.make(**settings)
        self.name = name
        self.settings = {key: slider.start for key, slider in there.sliders.items()} | settings
        self._sliders.children = [self._slider(key, slider) for key, slider in there.sliders.items()]
        with self.silently():
            self._menu.value = name
        self._advice.value = escaped(there.watch, "p")
        self.reset()

    def set(self, **settings: float) -> None:
        """Move sliders; the points stay where they are."""
        scene(self.name).make(**self.settings | settings)
        self.settings |= settings
        with self.silently():
            for value, slider in zip(self.settings.values(), self._sliders.children, strict=True):
                slider.value = value
        self._show([push(self.loss, self.push.points)])

    def step(self, steps: int = 1) -> None:
        """Move the points by some steps of gradient descent."""
        self._show([*self.way, *descend(self.loss, self.push.points, steps)[1:]])

    def reset(self) -> None:
        """Put the points back where they were at the start."""
        self._show([push(self.loss, scene(self.name).points)])

    def scatter(self, seed: int = 0) -> None:
        """Put the points at random places, the same for the same seed."""
        self._seed = seed
        self._show([push(self.loss, scene(self.name).scattered(seed))])

    def static(self) -> Figure:
        """The points, their arrows and the path so far, with the value of the loss, as a matplotlib figure."""
        settings = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.settings.items()]
        return descent_figure(self.way, title=", ".join([self.name, *settings]), theme=self.theme)

    def __repr__(self) -> str:
        return f"LossPlayground: {self.name}, loss {self.push.loss:.3g} after {len(self.way) - 1} steps"

    def _slider(self, name: str, slider: Slider) -> Any:
        kind, low, high = ipywidgets.FloatSlider, slider.low, slider.high
        if slider.factors:
            kind, low, high = ipywidgets.FloatLogSlider, np.log10(low), np.log10(high)
        look = {"min": low, "max": high, "step": 0.02, "continuous_update": False, "readout_format": ".3g"}
        made = control(kind, name.replace("_", " "), value=self.settings[name], **look)
        self.on_change(made, lambda value: self.set(**{name: value}))
        return made

    def _show(self, way: list[Push]) -> None:
        """Show a path."""
        self.way = way
        needs = f"{', '.join(self.push.roles)}, with {LABELS[scene(self.name).loss.label]}"
        self._state.value = escaped(f"{self!r}. It takes rows of {needs}.", "p")
        self._image.value = self.picture()
