"""`python -m leed_jax.study`: run a study. To be run, not imported; see `leed_jax.cli.study`."""

from leed_jax.cli.common import leave
from leed_jax.cli.study import run_study

if __name__ == "__main__":
    leave(run_study)
