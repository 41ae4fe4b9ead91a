"""Parts of `gpu.py`. Each is a function of a `Bench` that returns its figures."""
