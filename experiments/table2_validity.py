"""Table 2: valid inputs of every model; those that gave NaN or did not fit into memory are counted and left out.

Command: ``python experiments/table2_validity.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: all inputs valid in float32. These are of 432 passages on two CPU cores,
experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("tv",), tables=("validity",))
