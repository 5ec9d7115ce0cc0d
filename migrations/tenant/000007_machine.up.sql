-- API keys and support access.
SELECT;
