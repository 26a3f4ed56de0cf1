"""Where a run tells of itself beside its own files: TensorBoard always, trackers of experiments on demand."""
