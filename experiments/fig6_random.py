"""Fig. 6: the random baseline, uniform scores with residual and MLP edges first.

Command: ``python experiments/fig6_random.py RUN... --out FOLDER``
(folders of ``jstrace run``; under a minute).
Expected: random traces bring the prediction back later. Needs a run with --baselines random.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("random",), tables=("curves", "density"))
