"""The size of the trace that each nucleus of the prediction needs.

Command: ``python experiments/table1_nucleus.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: the top token needs 2% of the edges (residual+mlp) or 20% (all), the 90% nucleus 80% or all.
These are of 432 passages on two CPU cores, experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("nucleus",), tables=("nucleus",))
