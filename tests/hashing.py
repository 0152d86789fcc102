"""Password hashes that cost next to nothing: a fifth of a second of CPU for each sign-in is what argon2 is for, and not what most tests are
about. `tests/conftest.py` puts them in place; processes that tests start hash as the product does, and so does who asks for `CAREFUL`."""

from argon2 import PasswordHasher

from inventory import passwords

CAREFUL = passwords._hasher
"""The product's own."""
QUICK = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
