"""What a merged student keeps of its two teachers: a script that types the command lines, and a page of its results."""
