"""Original dataset layouts, one per file; each reads a dataset as a `fasticcl.convert.source.Source`."""
