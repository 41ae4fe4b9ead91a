"""Check that this machine can train: `examine` gathers facts, and ``checks`` turn them into findings."""
