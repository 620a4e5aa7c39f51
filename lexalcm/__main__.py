"""`python -m lexalcm` is `lcm`; launchers start it so: `torchrun --nproc-per-node 2 -m lexalcm train ...`."""

from lexalcm.cli.entry import main

main()
