"""Pages in a browser."""

from tests.browser import browser, opened  # noqa: F401
