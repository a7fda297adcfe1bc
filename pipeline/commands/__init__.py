"""The commands beside those of training and detecting, one file each."""
