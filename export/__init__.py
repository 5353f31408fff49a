"""Export: from a student folder to a verified bundle. Needs the `export` extra."""
