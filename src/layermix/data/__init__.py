"""Files and rows in, tokenised rows and batches out."""
