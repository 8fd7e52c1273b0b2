"""``python -m mistudio``: the command, for launchers that start modules."""

import sys
from pathlib import Path

# Python puts the working folder first on the path of a module that is run by name. Files there are data, unless this
# very package came from there.
if not sys.flags.safe_path and sys.path and Path(sys.path[0]).absolute() != Path(__file__).parents[1]:
    del sys.path[0]

from mistudio.cli import main

main()
