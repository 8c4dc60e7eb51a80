"""One trace for people and machines: words, tables, curves, JSON.

Imports ``pipeline`` and what stands below it; ``reports`` and ``cli`` import it.
"""
