"""Fig. 9: Spearman's correlation of density between models on the same inputs.

Command: ``python experiments/fig9_between_models.py RUN... --out FOLDER`` (folders of ``jstrace run``; under a
minute).

Expected: positive where models find the same inputs dense. Needs the runs of two models or more on the same data.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.paper import main

if __name__ == "__main__":
    main(__doc__, figures=("between-models", "models"), tables=("between-models",))
