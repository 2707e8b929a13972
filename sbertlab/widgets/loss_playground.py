"""`LossPlayground`: points on a plane, a loss to choose and set, and where it pushes them."""

from __future__ import annotations

from typing import Any

import ipywidgets
import numpy as np

from sbertlab.analysis.loss_plane import SCENES, Points, Push, Slider, descend, push, scene
from sbertlab.losses.base import LABELS, Loss
from sbertlab.plots.losses import descent_figure
from sbertlab.plots.style import Figure
from sbertlab.widgets.panel import Panel, control, escaped, row

STRIDE = 25
"""Steps that "Descend" takes at once."""


class LossPlayground(Panel):
    """A menu of losses, sliders for what they can be told, and points that go where the loss pushes them.

    "Step" takes one step of gradient descent, "Descend" 25. "Start again" puts the points back, "Scatter" puts them
    anywhere. Moving a slider leaves the points where they are and begins a new way there.

    Args:
        loss: name of the loss to begin with, one of `loss_plane.SCENES`.
        points: own points `(rows, columns, 2)`; the menu then holds the losses that take such rows. None gives each
            loss points that were made for it.
        labels: of own points, one a row, where the loss wants some.
        theme: "light" or "dark".
        settings: where the sliders of this loss begin.

    Attributes:
        name: name of the chosen loss.
        settings: where its sliders are.
        way: the pushes from the start, or from the last move of a slider, to now.

    Raises:
        ValueError: a loss or a setting that does not exist, or an unknown theme. Points that do not fit the loss are
            told in place of the panel.

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
        self._seed, self._moving = -1, False
        self._menu = control(ipywidgets.Dropdown, "Loss", options=list(SCENES), value=loss)
        self._sliders = ipywidgets.VBox()
        self._watch, self._said = ipywidgets.HTML(), ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png", layout={"max_width": "100%", "width": "720px"})
        buttons = [
            self._button("Step", "One step of gradient descent", lambda: self.step()),
            self._button("Descend", f"{STRIDE} steps", lambda: self.step(STRIDE)),
            self._button("Start again", "Put the points back where they were", self.reset),
            self._button("Scatter", "Put the points at random places", lambda: self.scatter(self._seed + 1)),
        ]
        super().__init__(
            [row(self._menu), self._watch, self._sliders, row(*buttons), self._said, self._image], theme=theme
        )
        if points is not None:
            try:
                self._own = Points(points, labels)
                push(scene(loss).make(**settings), self._own)
            except (ValueError, TypeError) as error:
                self.replace(str(error))
                return
            self._menu.options = [name for name in SCENES if _fits(name, self._own)]
            self._menu.value = loss
        self._menu.observe(self.guarded(lambda change: self.choose(change["new"])), names="value")
        self._begin(loss, settings)

    @property
    def push(self) -> Push:
        """What the loss does to the points where they are now."""
        return self.way[-1]

    @property
    def loss(self) -> Loss:
        """The chosen loss, as it is set."""
        return scene(self.name).make(**self.settings)

    def choose(self, name: str, **settings: float) -> None:
        """Show another loss, from its start.

        Raises:
            ValueError: a loss that is not in the menu, or a setting it does not have.
        """
        if name not in self._menu.options:
            raise ValueError(f"loss must be one of {', '.join(self._menu.options)}, got {name!r}")
        scene(name).make(**settings)
        self._begin(name, settings)

    def set(self, **settings: float) -> None:
        """Move sliders; the points stay where they are.

        Raises:
            ValueError: a setting that this loss does not have or refuses.
        """
        scene(self.name).make(**{**self.settings, **settings})
        self.settings |= settings
        self._move_sliders()
        self._take([push(self.loss, self.push.points)])

    def step(self, steps: int = 1) -> None:
        """Move the points by so many steps of gradient descent."""
        self._take([*self.way, *descend(self.loss, self.push.points, steps)[1:]])

    def reset(self) -> None:
        """Put the points back where they were at the start."""
        self._take([push(self.loss, self._own or scene(self.name).points)])

    def scatter(self, seed: int = 0) -> None:
        """Put the points at random places; the same seed gives the same places."""
        self._seed = seed
        self._take([push(self.loss, scene(self.name).scattered(seed, self._own))])

    def static(self) -> Figure:
        """The points, their arrows and the way so far, with the value of the loss, as a matplotlib figure."""
        told = [f"{_words(name)} {value:.3g}" for name, value in self.settings.items()]
        return descent_figure(self.way, title=", ".join([self.name, *told]), theme=self.theme)

    def __repr__(self) -> str:
        if self.message:
            return super().__repr__()
        return f"LossPlayground: {self.name} is {self.push.loss:.3g} after {_steps(len(self.way) - 1)}"

    def _button(self, name: str, tooltip: str, action: Any) -> ipywidgets.Button:
        button = control(ipywidgets.Button, name, tooltip=tooltip)
        button.on_click(self.guarded(lambda button: action()))
        return button

    def _begin(self, name: str, settings: dict[str, float]) -> None:
        """Show a loss with its sliders and points."""
        there = scene(name)
        self.name = name
        self.settings = {key: settings.get(key, slider.start) for key, slider in there.sliders.items()}
        self._sliders.children = tuple(self._slider(key, slider) for key, slider in there.sliders.items())
        self._menu.value = name  # answers with choose() of the same loss unless it is that already
        self._watch.value = escaped(there.watch, "p")
        self.reset()

    def _slider(self, name: str, slider: Slider) -> Any:
        numbers = {"min": slider.low, "max": slider.high, "step": (slider.high - slider.low) / 100}
        if slider.factors:
            numbers = {"min": np.log10(slider.low), "max": np.log10(slider.high), "step": 0.02}
        kind = ipywidgets.FloatLogSlider if slider.factors else ipywidgets.FloatSlider
        made = control(
            kind,
            _words(name),
            value=min(max(self.settings[name], slider.low), slider.high),
            readout_format=".3g" if slider.factors else ".2f",
            continuous_update=False,
            **numbers,
        )
        made.observe(self.guarded(lambda change: self._set_by_hand(name, change["new"])), names="value")
        return made

    def _set_by_hand(self, name: str, value: float) -> None:
        if not self._moving and value != self.settings[name]:
            self.set(**{name: value})

    def _move_sliders(self) -> None:
        """Put the sliders where the settings are, without an answer; one that is set beyond its end stays there."""
        self._moving = True
        try:
            for (name, ends), slider in zip(scene(self.name).sliders.items(), self._sliders.children, strict=True):
                slider.value = min(max(self.settings[name], ends.low), ends.high)
        finally:
            self._moving = False

    def _take(self, way: list[Push]) -> None:
        """Show other pushes."""
        self.way = way
        kind = scene(self.name).loss
        steps = len(way) - 1
        words = f"loss {self.push.loss:.3g} after {_steps(steps)}" if steps else f"loss {self.push.loss:.3g}"
        taken = f"It takes rows of {', '.join(self.push.roles)}, with {LABELS[kind.label]}"
        self._said.value = escaped(f"{words}. {taken}.", "p")
        self._image.value = self.picture()


def _fits(name: str, points: Points) -> bool:
    try:
        push(scene(name).make(), points)
    except ValueError:
        return False
    return True


def _words(name: str) -> str:
    """Name of an argument as words.

    >>> _words("triplet_margin")
    'triplet margin'
    """
    return name.replace("_", " ")


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"
