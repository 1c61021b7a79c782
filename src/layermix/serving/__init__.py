"""What is done with a saved model: predict, evaluate, export, benchmark."""
