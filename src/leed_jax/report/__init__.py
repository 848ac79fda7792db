"""What a run shows and leaves behind: progress, directory, metrics, checkpoints, plots, animation, summary."""
