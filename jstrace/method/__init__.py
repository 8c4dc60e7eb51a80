"""The mathematics of s-Trace: graph, scores, extraction, masks, measures; pure functions of one input.

Imports ``jstrace.models`` alone; ``pipeline`` and what follows import it.
"""
