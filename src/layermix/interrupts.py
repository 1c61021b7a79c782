"""Ctrl-C that is not lost: Python throws away what falls into a destructor."""

import _thread
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_MOMENT = 0.05  # seconds; a collection of garbage may take several


@contextmanager
def lasting_interrupts() -> Iterator[None]:
    """Within it, a KeyboardInterrupt that was raised in a `__del__` is raised again a moment later.

    Each training begins with a collection of garbage, in which the patterns of `regex`, thousands,
    are destroyed in Python: Ctrl-C in that tenth of a second had no effect but two lines of text.
    """
    before = sys.unraisablehook

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(_interrupt_soon, ())
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _interrupt_soon() -> None:
    # Not at once: that would be within the destructor, and lost like the first.
    time.sleep(_MOMENT)
    _thread.interrupt_main()
