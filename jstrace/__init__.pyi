from .method.edges import Edge as Edge
from .method.extraction import extract as extract
from .method.sizes import SIZES as SIZES
from .model import load as load
from .models import EdgeTree as EdgeTree
from .models import InputError as InputError
from .models import Model as Model
from .models import ModelConfig as ModelConfig
from .models import make_mesh as make_mesh
from .pipeline.evaluating import evaluate as evaluate
from .pipeline.evaluation import Evaluation as Evaluation
from .pipeline.trace import Trace as Trace
from .pipeline.tracing import trace as trace

__version__: str
