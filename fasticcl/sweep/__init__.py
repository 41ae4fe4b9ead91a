"""Sweeps of the rebalancing stage: many settings from one first stage."""
