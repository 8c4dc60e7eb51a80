"""Transformer programs whose circuit is known: written weights, the edges that are true, and measures of scores."""
