"""Fig. 5: traces by edge type and by quarter of the layers, against size.

Command: ``python experiments/fig5_makeup.py RUN... --out FOLDER``
(folders of ``jstrace run``; under a minute).
Expected: attention is sparse in the core of 0.1% and nearly all of large traces; early layers come first.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("makeup",), tables=("makeup",))
