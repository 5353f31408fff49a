"""Students: architectures as data, their weights, tokenizers and checkpoint folders."""
