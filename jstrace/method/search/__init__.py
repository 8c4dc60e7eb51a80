"""From scores to strata: best-first search from the output, or rank alone."""
