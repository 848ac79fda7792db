"""Files that a user writes in YAML, read with an error that names the file."""

from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leed_jax.config.options import one_sentence
from leed_jax.errors import ConfigurationError


def read_mapping(text: str, what: str) -> Any:
    """The keys and values of a YAML text, as an OmegaConf mapping.

    Args:
        text: the text.
        what: what to call the file in messages.

    Raises:
        ConfigurationError: it is no YAML, or holds something else.
    """
    try:
        values: Any = OmegaConf.create(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{what} is not valid YAML: {error}") from None
    except OmegaConfBaseException as error:
        raise ConfigurationError(f"{what} cannot be read: {one_sentence(error)}") from None
    except RecursionError:
        raise ConfigurationError(
            f"{what} refers to itself, or is nested too deeply; write its values out, without anchors."
        ) from None
    except AssertionError:
        # What OmegaConf has for a number that stands alone.
        values = None
    if not OmegaConf.is_dict(values):
        raise ConfigurationError(f"{what} must hold keys and values.")
    return values
