"""The dynamics of gymnasium's classic control and toy text environments, for the backend `compiled`.

Each module has the arithmetic of gymnasium's class, operation by operation, so that both give the same numbers.
"""
