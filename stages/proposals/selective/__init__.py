"""Selective search (Uijlings et al., IJCV 2013), compiled by numba."""
