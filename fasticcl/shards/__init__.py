"""The shard format: write, read, verify and summarise shards."""
