"""Dictionaries at scale: activations streamed from a model or a store, recipes, steps, exact resume."""
