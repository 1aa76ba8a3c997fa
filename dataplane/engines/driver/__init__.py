"""What programs at the XDP hook share, whichever engine they are of: where they are attached,
what they are told of the node, and how they read a frame."""
