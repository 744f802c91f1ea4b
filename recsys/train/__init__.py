"""Training on TorchRec: one process under plain Python, many under torchrun (``torchrun -m recsys.train``)."""
