"""Dictionaries' files beside the libraries that make them: each in its own interpreter, on the same rows."""
