"""``torchrun --nproc-per-node N -m recsys.train ...``: the same options as ``recsys train``, in many processes."""

import sys

from recsys.command import execute
from recsys.train.trainer import TRAIN_DEFAULTS, train

if __name__ == "__main__":
    execute("recsys.train", "Train the towers in this process.", TRAIN_DEFAULTS, train, sys.argv[1:])
