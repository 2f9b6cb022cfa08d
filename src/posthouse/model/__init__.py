"""The nouns: frozen values, closed lists, errors as sentences, and the protocols of what is handed in.

Depends on nothing of Posthouse; does no I/O.
"""
