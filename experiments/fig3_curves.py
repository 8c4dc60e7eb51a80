"""Fig. 3: TV distance against the size of the trace, median and quartiles, with the two phases marked.

Command: ``python experiments/fig3_curves.py RUN... --out FOLDER``
(folders of ``jstrace run``; under a minute).
Expected: in the construction phase, 1e-4 to 1e-2, TV falls from near 1; refinement follows. Of SmolLM2 that holds with
residual+mlp ablated and not with all edges (experiments/results/smollm2).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("tv", "models"), tables=("curves", "phases", "density"))
