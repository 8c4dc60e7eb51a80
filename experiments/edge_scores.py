"""Other edge scores, L2, IFR and cosine, through the same extraction.

Command: ``python experiments/edge_scores.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M (8 passages, two CPU cores, all edges ablated): density 4.08 with L1, 4.02 with L2, 4.46 with
cosine and 4.74 with IFR. Needs a run with several --importance.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("importance",), tables=("curves", "density"))
