"""Better training data: find what is wrong with it before a model learns it."""
