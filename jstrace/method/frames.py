"""Columns as data frames, for who has pandas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jstrace.models import InputError

if TYPE_CHECKING:
    import pandas as pd


def frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    """A data frame of columns of the same length.

    Raises:
      InputError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("to_pandas needs pandas: pip install pandas") from error
    return pd.DataFrame(dict(columns))
