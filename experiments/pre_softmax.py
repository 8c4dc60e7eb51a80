"""The pre-softmax baseline: attention masks that enter the softmax.

Command: ``python experiments/pre_softmax.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a minute).

Expected of SmolLM2-135M (8 passages, two CPU cores, all edges ablated): density 3.96 against 4.08 with masks after
the softmax. Needs a run with --baselines pre-softmax.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("pre-softmax",), tables=("curves", "density"))
