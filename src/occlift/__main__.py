"""`python -m occlift`: the command line where the script is not on the path."""

from occlift.cli import main

main()
