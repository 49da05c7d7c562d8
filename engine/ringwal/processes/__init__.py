"""The three processes of an engine: supervisor, WAL and drain. They meet only in shared memory and on the socket."""
