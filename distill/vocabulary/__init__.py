"""Vocabularies for the edge: keep the tokens that some languages need, and prove that nothing changed for them."""
