"""Ctrl-C, made safe for a loop whose state is on the device and whose buffers are donated."""

import signal
from collections.abc import Callable
from typing import Any


class Interrupts:
    """Ctrl-C and SIGTERM wait for the loop to come to rest; a second one does not."""

    def __init__(self, say: Callable[[str, dict[str, Any]], None]):
        self.say = say

    def __enter__(self) -> "Interrupts":
        self.pending = False
        self.before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller's own handling stays
                break
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
        self.say("interrupt", {})

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
