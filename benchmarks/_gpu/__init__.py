"""The parts of `gpu.py`, each a function of a `Bench` that returns what it found."""
