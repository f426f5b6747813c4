"""`python -m medvl` is `medvl`."""

from medvl.cli import main

main()
