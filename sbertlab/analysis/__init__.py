"""How sure a number is, why two texts are similar, and where embeddings lie."""
