"""The command line: a module for each command, and the options that they share; nothing imports it.

Nothing of JAX is imported before a command runs, so that ``jstrace --help`` answers at once.
"""

from jstrace.cli.app import main

__all__ = ["main"]
