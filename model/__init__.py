"""A formal model of what must never happen to money, and of the ways in which it could: Promela, checked by spin.

`python -m model` visits every state that the protocol can reach, and that the checker finds each fault it is given.
"""
