"""The graph of one forward pass: its edges by place and number, and how many of each kind a trace has."""
