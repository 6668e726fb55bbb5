"""Signal handlers that libraries set and leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def handlers_as_before(*numbers: signal.Signals) -> Iterator[None]:
    """Put back the handlers of these signals, where this is the thread that may: else Ctrl-C is another's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
