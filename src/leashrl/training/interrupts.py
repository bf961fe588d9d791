"""Ctrl-C and SIGTERM, made safe: in imports, and in a loop that donates its buffers on the device."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it SIGTERM, which batch systems and containers send, does what Ctrl-C does."""
    before: dict[int, Any] = {}
    try:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup, or a shell's background, wants it ignored
                before[number] = signal.signal(number, _interrupt)
    except ValueError:  # not the main thread: the caller's own handling stays
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        # A compiled module aborts when an exception meets its import (jaxlib's does), and nothing has begun.
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"leashrl: interrupted\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


class Interrupts:
    """Ctrl-C and SIGTERM wait for the loop to come to rest; a second one does not."""

    def __init__(self, told: Callable[[], None]):
        """`told` is called at the first one, from a signal handler."""
        self.told = told

    def __enter__(self) -> "Interrupts":
        self.pending = False
        self.before: dict[int, Any] = {}
        for number in SIGNALS:
            try:
                self.before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread: the caller's own handling stays
                break
        return self

    def _note(self, number: int, frame: Any) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
        self.told()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
