"""Ending a run early and whole: a signal asks for it, and chains stop when their present block of iterations has ended.

What is in a store by then stays there, and the same call goes on from it.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

RESUMABLE = 75
"""The exit code of a run that stopped early and goes on when it is started again: `EX_TEMPFAIL`."""

GRACE = 20.0
"""Seconds from a signal to the end of the process, if no block ends before: it may be compiling."""

_asked = threading.Event()
_logger = logging.getLogger("jaxllc")


class Stopped(KeyboardInterrupt):
    """The run was asked to stop. No `except Exception` takes it for a failure."""


def check() -> None:
    """Leave here if a signal asked for it; called where a block of iterations ends, and where a process waits for others.

    Raises:
        Stopped: it did.
    """
    if _asked.is_set():
        raise Stopped("the run was asked to stop; the same call goes on where it stopped.")


@contextlib.contextmanager
def on_signals(grace: float = GRACE, *, ends_process: bool = False) -> Iterator[None]:
    """Let SIGTERM and SIGINT stop the run at the end of a block; a second one, or the end of the grace, ends the process at once with `RESUMABLE`.

    Python runs its handlers between two of its own instructions only, and a program that is compiled or runs can last minutes. So a thread hears the
    signals, through a socket. For the main thread. With `ends_process` signals mean nothing afterwards, when all is done and the process is about to end.
    """
    heard, written = socket.socketpair()
    written.setblocking(False)
    _asked.clear()
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    descriptor = signal.set_wakeup_fd(written.fileno())
    listener = threading.Thread(target=_listen, args=(heard, grace), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends_process else handler)
        written.close()
        listener.join()
        heard.close()
        _asked.clear()


def _listen(heard: socket.socket, grace: float) -> None:
    """Ask for the end of the run at the first signal, and end the process at the second, unless the run ends before."""
    first = heard.recv(1)
    if not first:
        return
    _asked.set()
    _logger.warning("%s: stopping at the end of this block of iterations; a second signal ends the process at once", signal.Signals(first[0]).name)
    heard.settimeout(grace)
    with contextlib.suppress(TimeoutError):
        if not heard.recv(1):
            return
    _logger.warning("the process ends now; what is written is whole, and the same call goes on from it")
    os._exit(RESUMABLE)
