"""The controls of a panel by their names; without the lab extra, nothing here is collected."""

from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("ipywidgets") else ["test_*.py"]


@pytest.fixture
def controls():
    """A function of a panel that returns its buttons, menus and sliders by their labels."""

    def find(panel):
        found, waiting = {}, [panel]
        while waiting:
            widget = waiting.pop()
            waiting += getattr(widget, "children", ())
            if getattr(widget, "description", ""):
                found[widget.description] = widget
        return found

    return find
