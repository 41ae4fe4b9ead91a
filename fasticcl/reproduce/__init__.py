"""Reproduction of the paper's tables and figures: the runs that they need, their execution and the result."""
