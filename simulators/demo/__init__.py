"""`footfall-sim demo`: a whole shop with every real part, on one machine."""
