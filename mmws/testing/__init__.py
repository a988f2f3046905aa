"""Trial runs of models on tiny images, and how far their outputs lie apart."""
