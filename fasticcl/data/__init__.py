"""From shards to batches: the plan, the DALI graph, the image cache and the loader."""
