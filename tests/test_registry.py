"""Registries resolve every name that they list."""

import pytest

from fasticcl.convert.layouts.layout import Layout
from fasticcl.convert.layouts.registry import LAYOUTS
from fasticcl.method.class_losses import CLASS_LOSSES
from fasticcl.method.encoders import ENCODERS


@pytest.mark.parametrize("registry", [LAYOUTS, ENCODERS, CLASS_LOSSES], ids=["layouts", "encoders", "losses"])
def test_every_name_resolves_to_an_object(registry):
    assert len(registry) == len([*registry.values()]) > 1
    kinds = {isinstance(each, Layout) or callable(each) for each in registry.values()}
    assert kinds == {True}
    assert "nothing" not in registry
    with pytest.raises(KeyError):
        registry["nothing"]
