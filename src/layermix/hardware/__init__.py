"""What makes a step fast on the machine at hand."""
