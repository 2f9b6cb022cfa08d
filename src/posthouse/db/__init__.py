"""PostgreSQL: the embedded server, the pool, migrations, and SQL in named files.

Never knows what a table means; that belongs to the room that writes it.
"""
