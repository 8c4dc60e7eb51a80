from .loading import enable_cache as enable_cache
from .loading import load as load
from .method.edges import Edge as Edge
from .method.edges import Edges as Edges
from .method.extraction import extract as extract
from .method.gradients import GradientScore as GradientScore
from .method.gradients import Rounds as Rounds
from .method.sizes import SIZES as SIZES
from .models import EdgeTree as EdgeTree
from .models import Importance as Importance
from .models import InputError as InputError
from .models import Model as Model
from .models import ModelConfig as ModelConfig
from .models import Replacement as Replacement
from .models import make_mesh as make_mesh
from .pipeline.driver import Invalid as Invalid
from .pipeline.evaluating import evaluate as evaluate
from .pipeline.evaluating import evaluate_iter as evaluate_iter
from .pipeline.evaluation import Evaluation as Evaluation
from .pipeline.replacing import mean_replacement as mean_replacement
from .pipeline.replacing import noise_replacement as noise_replacement
from .pipeline.replacing import resample_replacement as resample_replacement
from .pipeline.trace import Trace as Trace
from .pipeline.tracing import trace as trace
from .pipeline.tracing import trace_iter as trace_iter
from .show.curves import plot_curves as plot_curves

__version__: str
