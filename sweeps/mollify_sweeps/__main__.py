"""`python -m mollify_sweeps`: the command `mollify-sweeps`."""

import sys

from mollify_sweeps.programs.command import main

sys.exit(main())
