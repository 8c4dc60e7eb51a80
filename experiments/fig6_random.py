"""Fig. 6: the random baseline, uniform scores with residual and MLP edges first.

Command: ``python experiments/fig6_random.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: density 4.09 against 4.65 (all), 2.91 against 2.96 (residual+mlp), where random traces are
ahead from 2% of the edges on. Needs a run with --baselines random. These are of 432 passages on two CPU cores,
experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("random",), tables=("curves", "density"))
