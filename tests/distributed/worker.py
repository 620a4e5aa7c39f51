"""One process of a world: runs the jobs of a JSON file one after the other."""

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from exploding import exploding_contexts

from lexalcm.errors import LexaError
from lexalcm.train.run.main import read_run_config, train

for job in json.loads(Path(sys.argv[1]).read_text()):
    os.environ["MASTER_PORT"] = str(job["port"])
    settings = read_run_config(Path("config.yaml"), [f"name={job['name']}", *job["set"]], "auto")
    try:
        with exploding_contexts() if job.get("explodes") else nullcontext():
            train(settings)
    except LexaError as error:
        if job.get("fails") is None or job["fails"] not in str(error):
            raise
