"""One module per verb: arguments and printing; the work is done by the packages below."""
