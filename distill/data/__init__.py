"""Pictures with captions: the built-in set, readers for the field's formats, and what training iterates over."""
