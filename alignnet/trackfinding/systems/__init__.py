"""networks, each with the layers of its printed row."""
