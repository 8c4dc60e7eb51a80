"""Other edge scores, L2, IFR and cosine, through the same extraction.

Command: ``python experiments/edge_scores.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected: L2 is close to L1. Needs a run with several --importance.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("importance",), tables=("curves", "density"))
