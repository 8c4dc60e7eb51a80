"""Fig. 7: necessity, TV when the attention and MLP edges of the trace (or its MLP edges alone) are removed.

Command: ``python experiments/fig7_necessity.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M: TV is 0.88 without the trace of 0.02% and 0.99 without that of 0.1%, in both modes. Needs a
run with --baselines inverse. These are of 432 passages on two CPU cores, experiments/results/smollm2.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("necessity",), tables=("curves",))
