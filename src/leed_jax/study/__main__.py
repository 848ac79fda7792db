"""`python -m leed_jax.study NAME`."""

from leed_jax.cli import leave
from leed_jax.study.command import run_study

if __name__ == "__main__":
    leave(run_study())
