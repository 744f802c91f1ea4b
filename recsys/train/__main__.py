"""``torchrun --nproc-per-node N -m recsys.train ...``: the same options as ``recsys train``, in many processes."""

import sys

from recsys.command import execute
from recsys.train.verb import load

if __name__ == "__main__":
    execute("recsys.train", "Train the towers in this process.", load, sys.argv[1:])
