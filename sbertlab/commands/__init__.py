"""The command line, `python -m sbertlab COMMAND`: one file per command."""
