"""`python -m openrouter_audit`: the command line, where no script is on the path."""

import sys

from openrouter_audit.cli import main

sys.exit(main())
