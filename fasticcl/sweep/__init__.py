"""Sweeps over settings of the rebalancing stage, all from the same representation stage."""
