"""The paper's figures and tables, the benchmarks, and what came out of them."""
