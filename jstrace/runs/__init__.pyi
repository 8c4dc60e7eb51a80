from .data import Data as Data
from .data import altered as altered
from .data import read_data as read_data
from .job import Progress as Progress
from .row import Row as Row
from .runner import Summary as Summary
from .runner import run as run
from .schema import Extras as Extras
