"""Studies: one command for all runs behind one result; see `python -m leed_jax.study --help`."""
