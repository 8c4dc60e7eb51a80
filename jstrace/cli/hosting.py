"""Hosts that work together on one command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable


def joined() -> bool:
    """Start together with the other hosts; whether this is the first of them."""
    from jstrace.cli.lost_hosts import quieten
    from jstrace.scale.hosts import start_distributed

    # Libraries that connect hosts write to descriptor 1 themselves: results keep standard output to themselves.
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors="replace")
    quieten()
    os.dup2(2, 1)
    return start_distributed()


def by_first(first: bool, step: Callable[[], None]) -> None:
    """A step of the first host alone; the others wait, and fail where it does.

    Raises:
      BrokenPipeError: on every host, which ends it without a word: nobody reads the first one's output any more.
      Exception: the step's own, or an ``InputError`` on the other hosts.
    """
    import numpy as np

    from jstrace.scale import hosts

    def unread() -> bool:
        try:
            if first:
                step()
        except BrokenPipeError:
            return True
        return False

    if hosts.either(np.asarray(hosts.together(unread))):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
