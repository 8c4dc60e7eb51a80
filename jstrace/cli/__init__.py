"""The command line: a module for each command, what ``trace`` is made of, and shared options; nothing imports it.

Nothing of JAX is imported before a command runs, so that ``jstrace --help`` answers at once.
"""

from jstrace.cli.program import app, main

__all__ = ["app", "main"]
