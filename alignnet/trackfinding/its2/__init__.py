"""Track finding in layers around a beam line, as in ITS2: by message passing, and by a cellular automaton."""
