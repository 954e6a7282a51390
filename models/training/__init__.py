"""How networks are trained: the loop, averages, and what autoencoders and classifiers learn."""
