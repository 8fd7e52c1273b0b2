"""``python -m mistudio``: the command, for launchers that start modules."""

from mistudio.cli import main

main()
