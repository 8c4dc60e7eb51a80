from .data import Data as Data
from .data import read_data as read_data
from .runner import Progress as Progress
from .runner import Summary as Summary
from .runner import run as run
from .wikitext import Row as Row
