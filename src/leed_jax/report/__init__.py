"""What a run prints and writes: progress, run directory, metrics, checkpoints, plots, animation, summary."""
