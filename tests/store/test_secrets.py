"""Secrets that people pass to commands."""

from datetime import UTC, datetime

from inventory import accounts, tokens


def test_no_secret_looks_like_an_option() -> None:
    """`enroll --token T` must work for every T, and base64 may begin with a dash."""
    at = datetime(2026, 11, 22, tzinfo=UTC)
    made = [tokens.random_secret() for _ in range(500)] + [accounts.new_secret() for _ in range(500)]
    made += [tokens.derived_secret(b"key", str(n), at) for n in range(500)]
    assert not [secret for secret in made if secret.startswith("-")]
    assert len(set(made)) == len(made)
