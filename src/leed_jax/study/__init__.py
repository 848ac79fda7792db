"""Studies: one command for all runs behind one result; see `python -m leed_jax.study --help`."""

from leed_jax.study.command import run_study
from leed_jax.study.schema import StudyFile, study_names

__all__ = ["StudyFile", "run_study", "study_names"]
