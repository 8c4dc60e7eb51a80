"""Fig. 5: traces by edge type and by quarter of the layers, against size.

Command: ``python experiments/fig5_makeup.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: at size 1e-3 9.5% of the edges are attention's and 49% lie in the first quarter of the
layers. These are of 432 passages on two CPU cores, experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("makeup",), tables=("makeup",))
