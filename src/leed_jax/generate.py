"""`python -m leed_jax.generate`: record demonstrations. To be run, not imported; see `leed_jax.cli.generate`."""

from leed_jax.cli.common import leave
from leed_jax.cli.generate import main

if __name__ == "__main__":
    leave(main)
