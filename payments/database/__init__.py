"""The room of the database: connections, named queries, the schema and who may call the API."""
