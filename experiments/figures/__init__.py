"""The paper's figures and tables, drawn from folders of runs: one command, one table of what there is."""
