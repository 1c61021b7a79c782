"""Many runs: planned, scheduled, analysed."""
