"""`python -m leed_jax.compare`: compare finished runs. To be run, not imported; see `leed_jax.cli.compare`."""

from leed_jax.cli.common import leave
from leed_jax.cli.compare import main

if __name__ == "__main__":
    leave(main)
