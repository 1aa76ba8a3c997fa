"""What the engines of one event loop thread share: all but how packets are carried."""
