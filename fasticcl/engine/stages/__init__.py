"""The training stages, run by `fasticcl.engine.loop.Loop`."""
