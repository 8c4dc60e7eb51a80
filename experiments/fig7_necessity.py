"""Fig. 7: necessity, TV when the attention and MLP edges of the trace (or its MLP edges alone) are removed.

Command: ``python experiments/fig7_necessity.py RUN... --out FOLDER``
(folders of ``jstrace run``; under a minute).
Expected: removing 0.1% of the edges is enough to lose the prediction. Needs a run with --baselines inverse.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("necessity",), tables=("curves",))
