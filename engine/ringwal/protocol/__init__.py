"""The socket between clients and the supervisor: messages, and an end for each side."""
