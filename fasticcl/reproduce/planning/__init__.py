"""The steps from a request to a plan: rows and columns, settings, shards, jobs and their names."""
