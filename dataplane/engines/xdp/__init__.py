"""The `xdp` engine: STAMP in the driver, with the userspace engine behind it."""
