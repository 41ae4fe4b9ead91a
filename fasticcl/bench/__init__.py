"""Benchmarks of this machine: plan, loader, training step, end-to-end training, and conversion."""
