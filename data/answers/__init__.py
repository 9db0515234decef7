"""Mathematics as text: reading.py makes a tree of an answer, comparing.py tells whether two of them say the same."""
