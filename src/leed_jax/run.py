"""`python -m leed_jax.run`: train. To be run, not imported; see `leed_jax.cli.run`."""

from leed_jax.cli.common import leave
from leed_jax.cli.run import main

if __name__ == "__main__":
    leave(main)
