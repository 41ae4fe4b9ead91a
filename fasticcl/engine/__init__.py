"""Training as it is run: the two stages, the loop that they share, checkpoints, evaluation and progress."""
