"""Training: the stages of a run, the loop that they share, checkpoints, evaluation and progress."""
