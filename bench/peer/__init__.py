"""Attribution beside circuit-tracer: two processes with an interpreter each, the same files, one at a time."""
