"""``torchrun --nproc-per-node N -m recsys.train ...``: the same options as ``recsys train``, in many processes."""

from recsys.cli import main

if __name__ == "__main__":
    main(["train"])
