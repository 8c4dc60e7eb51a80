"""Fig. 4: stability of the core, the share of edges that the top components hold at each size.

Command: ``python experiments/fig4_core.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: 10% of the components hold 73% of the edges at size 1e-3, 20% of them at 0.1. These are of
432 passages on two CPU cores, experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("core",), tables=("core",))
