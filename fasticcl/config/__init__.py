"""Typed configuration of a run: sections, settings, ranges and defaults. Settings are named as in the paper.

The docstring of a setting is also the help text of the option that sets it, see `fasticcl.options`."""

from fasticcl.config.config import SECTIONS, Config
from fasticcl.config.data import Data
from fasticcl.config.engine import Engine
from fasticcl.config.method import Method
from fasticcl.config.optim import Optim
from fasticcl.config.rebalance import Rebalance
from fasticcl.config.types import Cache, Device, Recipe

__all__ = [
    "SECTIONS",
    "Cache",
    "Config",
    "Data",
    "Device",
    "Engine",
    "Method",
    "Optim",
    "Rebalance",
    "Recipe",
]
