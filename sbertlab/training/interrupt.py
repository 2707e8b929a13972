"""Ctrl-C as a wish: the running step is finished first. A second one stops at once."""

from __future__ import annotations

import os
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
        self._process = os.getpid()

    def __enter__(self) -> Interrupt:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as for a script in the background
        if threading.current_thread() is threading.main_thread() and not ignored:
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
        if os.getpid() != self._process:  # a worker of a DataLoader, to which a terminal sends it too
            return
        tqdm.write("Interrupted: finishing this step first. Once more stops at once.")
