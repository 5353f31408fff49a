"""Training: data, students, losses, recipes and evaluation. Needs the `distill` extra."""
