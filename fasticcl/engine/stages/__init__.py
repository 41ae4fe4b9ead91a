"""Training stages, which `fasticcl.engine.loop.Loop` runs."""
