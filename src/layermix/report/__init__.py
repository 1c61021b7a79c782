"""Pages of runs and studies."""
