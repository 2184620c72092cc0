"""Chooses what Ctrl-C does: while a program starts, it exits at once and prints nothing.

By default Python raises KeyboardInterrupt wherever it is: during an import that prints a traceback,
and between the creation of a coroutine and its first step a warning.
"""

import signal

_SIGINT = frozenset({signal.SIGINT})


def exit_on_interrupt() -> None:
    """Lets SIGINT kill this process from now on, unless it is ignored, as under nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_on_interrupt() -> None:
    """Lets SIGINT raise KeyboardInterrupt from now on, unless it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def block_interrupts() -> None:
    """Blocks SIGINT until `unblock_interrupts`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGINT)


def unblock_interrupts() -> None:
    """Delivers a SIGINT that was blocked."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGINT)
