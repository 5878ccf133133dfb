"""How the dictionaries of SmolLM2 are made and measured."""
