"""One circuit for many prompts of one task (section 9 of the method).

``pairs`` are the prompts, ``alignment`` maps their edges to images that they share, ``finding`` runs the model and
``judging`` measures on held-out pairs. A ``circuit`` is the result; ``archive`` is its file and ``mib`` its export.
"""
