"""Losses: pure functions of tensors that return named terms; the sum of a recipe's terms is what it minimises."""
