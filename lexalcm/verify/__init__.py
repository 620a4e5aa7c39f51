"""Is everything in order: checks of a trained model and of the machine, each with plain advice when it is not."""
