"""Mathematics as text: reading.py makes a tree of an answer, comparing.py tells whether two answers say the same."""
