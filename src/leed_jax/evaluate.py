"""`python -m leed_jax.evaluate`: evaluate a run. To be run, not imported; see `leed_jax.cli.evaluate`."""

from leed_jax.cli.common import leave
from leed_jax.cli.evaluate import main

if __name__ == "__main__":
    leave(main)
