"""Fig. 8: Spearman's correlation of density with entropy, loss and frequency of the top token.

Command: ``python experiments/fig8_correlations.py RUN... --out FOLDER``
(folders of ``jstrace run``; under a minute).
Expected: density grows with uncertainty and for rare tokens; see experiments/results/smollm2 for where it does not.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("correlation",), tables=("correlations",))
