"""What differs from one kind of device to another: the form of a computation, chosen here and nowhere else.

All forms of a computation give the same. Processors and GPUs are good at scatters and sorts, TPUs at neither: there a
sort of a vocabulary takes half a minute to compile.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TypeVar

import jax

from jstrace.errors import InputError

PLATFORMS = ("cpu", "gpu", "tpu")

Form = TypeVar("Form")


def form(platform: str | None, *, cpu: Form, gpu: Form, tpu: Form) -> Form:
    """The form for a platform, one of ``PLATFORMS``, or where it is None for JAX's default one.

    It is asked for while a program is traced, when nothing says yet for which devices: who compiles for others than the
    default ones passes a platform, or assumes one.

    Raises:
      InputError: no such platform.
    """
    forms = {"cpu": cpu, "gpu": gpu, "tpu": tpu}
    name = platform or _assumed.get() or jax.default_backend()
    if name not in forms:
        raise InputError(f"platform {name!r}, expected one of {', '.join(PLATFORMS)}")
    return forms[name]


@contextlib.contextmanager
def assumed(platform: str | None) -> Iterator[None]:
    """Trace for a platform, where no other is passed; None for JAX's default one.

    What ``jax.jit`` has traced before, of the same shapes, it does not trace again.
    """
    token = _assumed.set(platform)
    try:
        yield
    finally:
        _assumed.reset(token)


_assumed: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)
