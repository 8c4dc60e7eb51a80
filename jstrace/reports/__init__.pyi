from .page import write_report as write_report
from .results import Results as Results
from .results import read_results as read_results
