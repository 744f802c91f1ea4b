"""Search: engines over FAISS, the rungs they run at, and the measured ladder."""

from recsys.index.blas import load_faiss

load_faiss()
