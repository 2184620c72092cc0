"""Ctrl-C while a program starts ends it at once and without a word; later, as its work wants.

Python raises KeyboardInterrupt wherever it is, which in an import is a traceback, and between the
making of a coroutine and its first step a warning.
"""

import signal

_SIGINT = frozenset({signal.SIGINT})


def end_at_interrupt() -> None:
    """From now on SIGINT ends this process by itself, unless it is ignored, as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_at_interrupt() -> None:
    """From now on SIGINT raises KeyboardInterrupt, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def hold_interrupts() -> None:
    """A SIGINT waits until `release_interrupts`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGINT)


def release_interrupts() -> None:
    """A SIGINT that waits comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGINT)
