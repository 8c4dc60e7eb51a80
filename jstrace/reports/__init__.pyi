from .page import write_circuit as write_circuit
from .page import write_report as write_report
from .pages import view_input as view_input
from .reading import read_results as read_results
from .results import Results as Results
