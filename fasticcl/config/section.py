"""The base class of configuration sections."""

from pydantic import BaseModel, ConfigDict


class ConfigSection(BaseModel):
    """Base class of the sections, which are the tables of a configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
