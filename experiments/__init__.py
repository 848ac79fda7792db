"""Experiments: `experiment=NAME` loads NAME.yaml from this folder."""
