"""The size of the trace that each nucleus of the prediction needs.

Command: ``python experiments/table1_nucleus.py RUN... --out FOLDER``
(folders of ``jstrace run``; under a minute).
Expected: higher levels need larger traces; the most probable token comes back first.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("nucleus",), tables=("nucleus",))
