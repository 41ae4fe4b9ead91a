"""Training of the runs of a plan in subprocesses."""
