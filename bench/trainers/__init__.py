"""Training dictionaries beside other trainers: a process with an interpreter each, the same rows, weights and steps."""
