"""Figs. 10 and 11: the curves and the make-up of every model by itself.

Command: ``python experiments/fig10_11_per_model.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a
minute).

Expected of SmolLM2-135M: as Figs. 3 and 5. These are of 432 passages on two CPU cores, experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("tv", "makeup"), tables=("curves", "makeup"))
