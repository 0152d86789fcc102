"""The databases that the tests run on are real, empty, separate, and reached as the unprivileged role."""

import asyncpg


async def test_the_database_is_empty_and_ours(postgres_url: str) -> None:
    """A test's database holds no table, and its role is no superuser."""
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        await connection.execute("CREATE TABLE left_behind (id int)")
    finally:
        await connection.close()


async def test_the_next_test_sees_nothing_of_it(postgres_url: str) -> None:
    """What the test above made is in another database."""
    connection = await asyncpg.connect(postgres_url)
    try:
        assert await connection.fetchval("SELECT to_regclass('left_behind')") is None
    finally:
        await connection.close()
