"""``python -m model_servers``: start a server."""

from model_servers.command_line import main

main()
