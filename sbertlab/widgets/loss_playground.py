"""`LossPlayground`: points on a plane, a loss with its settings, and where it pushes the points."""

from __future__ import annotations

from typing import Any

import ipywidgets
import numpy as np

from sbertlab.analysis.loss_plane import SCENES, Points, Push, Slider, descend, push, scene
from sbertlab.checks import check_choice
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

    Args:
        loss: the loss to begin with, a name in `loss_plane.SCENES`.
        points: own points `(rows, columns, 2)`; the menu then has the losses that accept them. By default each loss has
            points made for it.
        labels: of own points, one per row, for losses that need them.
        theme: "light" or "dark".
        settings: initial values of the sliders.

    Attributes:
        name: name of the chosen loss.
        settings: values of its sliders.
        way: the pushes since the start, or since a slider was last moved.

    Raises:
        ValueError: an unknown loss, setting or theme. If the points do not fit the loss, the panel is a message.

    >>> playground = LossPlayground("TripletLoss", triplet_margin=0.0)
    >>> playground.push.arrows[2].any()  # the third negative is far enough
    np.False_
    >>> playground.set(triplet_margin=3.0)
    >>> playground.push.arrows[2].any()
    np.True_
    """

    def __init__(
        self,
        loss: str = "MultipleNegativesRankingLoss",
        points: Any = None,
        labels: Any = None,
        *,
        theme: str = "light",
        **settings: float,
    ) -> None:
        scene(loss).make(**settings)
        self.name, self.settings, self.way = loss, dict(settings), list[Push]()
        self._own: Points | None = None
        self._seed = -1
        self._menu = control(ipywidgets.Dropdown, "Loss", options=list(SCENES), value=loss)
        self._sliders = ipywidgets.VBox()
        self._advice, self._state = ipywidgets.HTML(), ipywidgets.HTML()
        self._image = picture_box("720px")
        super().__init__(theme=theme)
        if points is not None:
            try:
                self._own = Points(points, labels)
                push(scene(loss).make(**settings), self._own)
            except (ValueError, TypeError) as error:
                self.replace(str(error))
                return
            self._menu.options = [name for name in SCENES if _accepts(name, self._own)]
            self._menu.value = loss
        buttons = row(
            self.button("Step", self.step, "One step of gradient descent"),
            self.button("Descend", lambda: self.step(STRIDE), f"{STRIDE} steps"),
            self.button("Start again", self.reset, "Put the points back where they were"),
            self.button("Scatter", lambda: self.scatter(self._seed + 1), "Put the points at random places"),
        )
        self.children = (
            *self.children,
            row(self._menu),
            self._advice,
            self._sliders,
            buttons,
            self._state,
            self._image,
        )
        self.on_change(self._menu, self.choose)
        self._begin(loss, settings)

    @property
    def push(self) -> Push:
        """What the loss does to the points where they are now."""
        return self.way[-1]

    @property
    def loss(self) -> Loss:
        """The chosen loss with its settings."""
        return scene(self.name).make(**self.settings)

    def choose(self, name: str, **settings: float) -> None:
        """Show another loss of the menu, from its start."""
        check_choice("loss", name, self._menu.options)
        scene(name).make(**settings)
        self._begin(name, settings)

    def set(self, **settings: float) -> None:
        """Move sliders; the points stay where they are."""
        scene(self.name).make(**{**self.settings, **settings})
        self.settings |= settings
        with self.silently():
            for (name, slider), made in zip(scene(self.name).sliders.items(), self._sliders.children, strict=True):
                made.value = min(max(self.settings[name], slider.low), slider.high)
        self._show([push(self.loss, self.push.points)])

    def step(self, steps: int = 1) -> None:
        """Move the points by some steps of gradient descent."""
        self._show([*self.way, *descend(self.loss, self.push.points, steps)[1:]])

    def reset(self) -> None:
        """Put the points back where they were at the start."""
        self._show([push(self.loss, self._own or scene(self.name).points)])

    def scatter(self, seed: int = 0) -> None:
        """Put the points at random places, the same for the same seed."""
        self._seed = seed
        self._show([push(self.loss, scene(self.name).scattered(seed, self._own))])

    def static(self) -> Figure:
        """The points, their arrows and the path so far, with the value of the loss, as a matplotlib figure."""
        settings = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in self.settings.items()]
        return descent_figure(self.way, title=", ".join([self.name, *settings]), theme=self.theme)

    def __repr__(self) -> str:
        if self.message:
            return super().__repr__()
        return f"LossPlayground: {self.name} is {self.push.loss:.3g} after {_steps(self.way)}"

    def _begin(self, name: str, settings: dict[str, float]) -> None:
        """Show a loss with its sliders and points."""
        there = scene(name)
        self.name = name
        self.settings = {key: settings.get(key, slider.start) for key, slider in there.sliders.items()}
        self._sliders.children = tuple(self._slider(key, slider) for key, slider in there.sliders.items())
        with self.silently():
            self._menu.value = name
        self._advice.value = escaped(there.watch, "p")
        self.reset()

    def _slider(self, name: str, slider: Slider) -> Any:
        low, high, step = slider.low, slider.high, (slider.high - slider.low) / 100
        kind, value = ipywidgets.FloatSlider, min(max(self.settings[name], low), high)
        if slider.factors:
            kind, low, high, step = ipywidgets.FloatLogSlider, np.log10(low), np.log10(high), 0.02
        look = {"continuous_update": False, "readout_format": ".3g" if slider.factors else ".2f"}
        made = control(kind, name.replace("_", " "), value=value, min=low, max=high, step=step, **look)
        self.on_change(made, lambda value: self.set(**{name: value}))
        return made

    def _show(self, way: list[Push]) -> None:
        """Show a path."""
        self.way = way
        after = f" after {_steps(way)}" if len(way) > 1 else ""
        needs = f"{', '.join(self.push.roles)}, with {LABELS[scene(self.name).loss.label]}"
        self._state.value = escaped(f"loss {self.push.loss:.3g}{after}. It takes rows of {needs}.", "p")
        self._image.value = self.picture()


def _accepts(name: str, points: Points) -> bool:
    """Whether a loss can be computed on these points."""
    try:
        push(scene(name).make(), points)
    except ValueError:
        return False
    return True


def _steps(way: list[Push]) -> str:
    return f"{len(way) - 1} step" if len(way) == 2 else f"{len(way) - 1} steps"
