"""The one error type that a user can cause: bad input, with its remedy in one line."""


class InputError(ValueError):
    """Input that jstrace refuses; the message states what, what was expected and what to do."""
