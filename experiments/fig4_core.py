"""Fig. 4: stability of the core, the share of edges that the top components hold at each size.

Command: ``python experiments/fig4_core.py RUN... --out FOLDER``
(folders of ``jstrace run``; under a minute).
Expected: small traces of different inputs share their few components; large ones spread over all.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("core",), tables=("core",))
