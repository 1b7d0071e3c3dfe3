"""Track finding by the systems of HEP.TrkX: toys, networks, baselines, one way to train and score them."""
