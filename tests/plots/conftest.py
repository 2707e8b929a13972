"""What tests of figures share: what can be read in one, and what holds for each of them."""

import io
import warnings

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib import pyplot
from matplotlib.colors import to_hex

from sbertlab.plots.style import THEMES


@pytest.fixture
def written():
    """All that can be read in a figure, tick labels and axis labels too."""

    def read(figure):
        figure.draw_without_rendering()
        texts = figure.findobj(lambda artist: hasattr(artist, "get_text"))
        return [text.get_text() for text in texts if text.get_text()]

    return read


@pytest.fixture
def on_its_page(written):
    """A figure is drawn twice in the same bytes, on its page, under its title, without a warning or anything left."""

    def check(draw, theme):
        before = dict(pyplot.rcParams)
        files = io.BytesIO(), io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for file in files:
                figure = draw(theme=theme, title="A title")
                figure.savefig(file, format="png", dpi=40)
        assert files[0].getvalue().startswith(b"\x89PNG")
        assert files[0].getvalue() == files[1].getvalue()
        assert to_hex(figure.get_facecolor()) == THEMES[theme].background
        assert "A title" in written(figure)
        assert dict(pyplot.rcParams) == before, "the style ends with the figure"
        assert not pyplot.get_fignums(), "pyplot would show the figure a second time"

    return check
