"""One trace for people and machines: words, tables, curves, JSON.

Imports ``pipeline`` and the rooms before it; ``reports`` and ``cli`` import it.
"""
