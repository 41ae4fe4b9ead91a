"""The shard format: writing, reading, verifying and summarising."""
