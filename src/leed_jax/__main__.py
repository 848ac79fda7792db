"""`python -m leed_jax`: the commands."""

from leed_jax.cli.main import script

if __name__ == "__main__":
    script()
