"""What the two stages of the recipe `dc-clip` gain in several languages: a script of command lines, and its page."""
