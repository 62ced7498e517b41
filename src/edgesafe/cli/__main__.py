"""`python -m edgesafe.cli` is the command `edgesafe`."""

from edgesafe.cli.process import main

main()
