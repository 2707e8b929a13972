"""Ctrl-C as a wish: the running step is finished first. A second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from tqdm.auto import tqdm


class Interrupt:
    """While it is entered, the first SIGINT (Ctrl-C, a notebook's stop button) only sets `wished`.

    The second raises KeyboardInterrupt, as Python does otherwise. Outside the main thread, where Python allows no
    signal handlers, nothing is changed.
    """

    def __init__(self) -> None:
        self.wished = False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wished:
            raise KeyboardInterrupt
        self.wished = True
        tqdm.write("Interrupted: finishing this step first. Once more stops at once.")
