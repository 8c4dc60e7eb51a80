"""What griffe, which reads the package for the reference, is told beside its options."""

from __future__ import annotations

import griffe

from docs.sitebuild.parameters import apart


class Reading(griffe.Extension):
    """Asked by griffe about what it has read."""

    def on_package(self, *, loader: griffe.GriffeLoader, **_: object) -> None:
        """Names that rooms pass on lead to where they are defined, so that types in signatures are links."""
        loader.resolve_aliases(implicit=True, external=False)

    def on_function(self, *, func: griffe.Function, **_: object) -> None:
        """Parameters that are described together, told apart before the docstring is parsed."""
        if func.docstring is not None:
            func.docstring.value = apart(func.docstring.value)
