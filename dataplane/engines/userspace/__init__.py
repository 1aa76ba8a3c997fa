"""The `userspace` engine: UDP sockets, kernel timestamps, one event loop thread."""
