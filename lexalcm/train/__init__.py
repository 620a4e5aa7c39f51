"""Training: one trainer, engines behind one small protocol, checkpoints that any engine reads.

Read in this order: `run.py` (what `lcm train` does from settings to result), `trainer.py` (the loop),
`engines/protocol.py` (what an engine must do), `checkpoint.py` (what is kept and how).
All code that knows of more than one process lives here; models, data and diffusion know nothing of it.
"""
