"""Dataset layouts, one per file. Each reads an original dataset as a `fasticcl.convert.source.Source`."""
