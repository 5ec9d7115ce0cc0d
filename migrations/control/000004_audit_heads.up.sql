-- Heads of the tenants' audit chains.
SELECT;
