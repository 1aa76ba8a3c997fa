"""`python -m tools.demo`."""

import signal
import sys

from tools.demo.cli import main

# To be told to end is to be interrupted: the lab is taken down first.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
