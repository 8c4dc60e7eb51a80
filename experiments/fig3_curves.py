"""Fig. 3: TV distance against the size of the trace, median and quartiles, with the two phases marked.

Command: ``python experiments/fig3_curves.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: with residual+mlp ablated TV falls from 0.97 at 1e-4 to 0.49 at 1e-2; with all edges ablated
nothing happens before 10%, 0.35 at 20%. These are of 432 passages on two CPU cores, experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("tv",), tables=("curves", "phases", "density"))
