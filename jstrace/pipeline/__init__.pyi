from .driver import Driver as Driver
from .evaluation import Evaluation as Evaluation
from .records import Input as Input
from .records import Invalid as Invalid
from .records import Outcome as Outcome
from .trace import Trace as Trace
