"""One picture: chosen, predicted, shown."""
