"""A run's whole life: planned, trained, resumed, fine-tuned, loaded again."""
