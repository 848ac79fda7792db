"""`python -m leed_jax.study`: run a study. To be run, not imported; see `leed_jax.cli.study`."""

from leed_jax.cli.common import leave
from leed_jax.cli.study import main

if __name__ == "__main__":
    leave(main)
