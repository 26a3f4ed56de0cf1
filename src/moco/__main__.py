"""`python -m moco` is the command `moco`."""

import sys

from moco.cli import main

sys.exit(main())
