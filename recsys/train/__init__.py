"""Training on TorchRec: one process under plain Python, many under torchrun (``torchrun -m recsys.train``)."""

from recsys.verbs import make_callable

make_callable(__name__)
