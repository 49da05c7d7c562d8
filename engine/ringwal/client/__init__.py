"""The client: what appends, reads and follows, in a process that is not the engine's."""
