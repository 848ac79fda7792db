"""`python -m leed_jax.demonstrations`: list, show, verify, replay and export demonstration sets."""

from leed_jax.cli.common import leave
from leed_jax.cli.demonstrations import main

if __name__ == "__main__":
    leave(main)
