"""Give the readers of mmws mutated inputs; each must be read or refused with one clear error."""
