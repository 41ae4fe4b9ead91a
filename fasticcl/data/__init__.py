"""From an original dataset to batches: shards, the plan, the DALI graph and the loader."""
