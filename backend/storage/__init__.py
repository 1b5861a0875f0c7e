"""The only place with SQL. Named queries in .sql files, numbered migrations, one class per noun."""
