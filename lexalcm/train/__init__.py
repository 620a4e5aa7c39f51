"""Training: one trainer, engines behind one small protocol, checkpoints that any engine reads.

Read in this order: `run/main.py` (what `lcm train` does from settings to result), `trainer.py` (the loop),
`engines/protocol.py` (what an engine must do), `checkpoint/format.py` (what is kept and how).
Code that knows of more than one process lives here and in `distributed`; models, data and diffusion know nothing of it.
"""
