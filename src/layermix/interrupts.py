"""Ctrl-C that is not lost: Python throws away what falls into a destructor."""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_MOMENT = 0.05  # seconds; a collection of garbage may take several


@contextmanager
def lasting_interrupts() -> Iterator[None]:
    """Within it, Ctrl-C that falls into a `__del__` is pressed again a moment later, until heard.

    Each training begins with a collection of garbage, in which thousands of objects that `regex`
    left behind are destroyed in Python: Ctrl-C in that tenth of a second stopped nothing.
    """
    before, over, waiting = sys.unraisablehook, threading.Event(), threading.Event()

    def press_soon() -> None:
        # Not at once: that would be within the destructor, and lost like the first.
        ended = over.wait(_MOMENT)
        waiting.clear()
        if not ended:
            _press()

    def hook(lost: "sys.UnraisableHookArgs") -> None:
        heard = callable(signal.getsignal(signal.SIGINT))  # not if the shell has it ignored
        if not issubclass(lost.exc_type, KeyboardInterrupt) or not heard:
            before(lost)
        elif not waiting.is_set():
            waiting.set()
            _thread.start_new_thread(press_soon, ())

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        over.set()


def _press() -> None:
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:  # a signal, as it ends what the main thread waits for, too
        main = threading.main_thread().ident
        assert main is not None  # it has been started
        signal.pthread_kill(main, signal.SIGINT)
