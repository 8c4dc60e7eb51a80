from .driver import Driver as Driver
from .driver import Input as Input
from .driver import Invalid as Invalid
from .driver import Outcome as Outcome
from .evaluation import Evaluation as Evaluation
from .trace import Trace as Trace
