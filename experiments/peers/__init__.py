"""Other tools' edges on jstrace's yardstick, and jstrace's on theirs; ``experiments/peers_compared.py`` runs it.

``translation`` turns edges between heads and MLPs into edges of jstrace's graph and back; ``edge_patching`` runs in the
other tool's environment and imports nothing of jstrace.
"""
