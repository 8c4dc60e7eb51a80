from .altering import altered as altered
from .data import Data as Data
from .data import read_data as read_data
from .extras import Extras as Extras
from .row import Row as Row
from .runner import Progress as Progress
from .runner import Summary as Summary
from .runner import run as run
