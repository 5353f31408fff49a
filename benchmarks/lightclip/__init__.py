"""What reinforced training gains and costs: scripts that type the command lines, and a page made of their results."""
