"""Fig. 8: Spearman's correlation of density with entropy, loss and frequency of the top token.

Command: ``python experiments/fig8_correlations.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: density and entropy -0.39 (all), 0.15 (residual+mlp); relative density 0.32 and 0.45. These
are of 432 passages on two CPU cores, experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("correlation",), tables=("correlations",))
