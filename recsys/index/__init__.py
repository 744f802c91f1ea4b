"""Search: engines over FAISS, the rungs they run at, and the measured ladder."""
